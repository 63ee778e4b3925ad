"""One seed of the crash harness: a run is killed, marked as crashed, retried, and judged."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableUpdate
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Scheduled

from benchmarks import boundaries, crash_flows
from benchmarks.boundaries import AT_RANDOM, ON_BLOCK, ON_SERVER, Boundary, Places, Side
from benchmarks.crash_checks import IN_DOUBT, damaged_files, judge, paid_for
from benchmarks.crash_plan import Plan
from benchmarks.prefect_server import ROOT, clean_environment, records_on_server
from benchmarks.proxy import Message, Watcher, proxy
from prefect_cometapi import simulator

#: Longest that one process may take, in seconds.
PATIENCE = 400.0
#: What a random kill is drawn from, in seconds after the process first asks Prefect's server.
RANDOM_SPAN = 6.0
#: What the dead process has sent may still arrive, for so many seconds.
SETTLES = 1.0
MOST_PROCESSES = 4
#: What is counted of the predictions of a run.
COUNTS = ("charged", "finished", "in doubt", "adopted", "finished then", "expired", "lost")
#: How far the intents are moved into the past: a retry waits for a fresh one.
AN_HOUR = timedelta(hours=1)


@dataclass
class Case:
    """A seed while it runs."""

    plan: Plan
    folder: Path
    prefect_port: int
    service: simulator.Simulator
    clock: Clock
    process: asyncio.subprocess.Process | None = None
    trap: Boundary | None = None
    met: int = 0
    kills: int = 0
    posts: Counter[str] = field(default_factory=Counter)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    broken: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    processes: int = 0
    hashes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = Places(self.folder / "storage", self.folder / "ledger")
        self.places.storage.mkdir(parents=True)
        self.places.ledger.mkdir()
        plan = self.plan
        self.prompts = [f"Seed {plan.seed}, picture {i}" for i in range(plan.predictions)]
        self.scope = f"crash-{plan.seed}" if plan.again == "new run" else None
        is_async = plan.shape in crash_flows.ASYNC_SHAPES
        self.flow: Flow[..., Any] = crash_flows.awork if is_async else crash_flows.work

    # --- killing ------------------------------------------------------------------------------

    def struck(self, side: Side, moment: str, message: Message) -> bool:
        """Whether this is the moment to kill at."""
        trap, nth = self.trap, self.plan.nth
        if trap is None or (trap.side, trap.moment) != (side, moment):
            return False
        if not trap.is_it(message, self.places, nth):
            return False
        self.met += 1
        return self.met == (nth if trap.counts else 1)

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.trap = None
        process = self.process
        if process is not None and process.returncode is None:
            self.kills += 1
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _kill_at_random(self, draw: Random) -> None:
        await self.asked.wait()
        await asyncio.sleep(draw.uniform(0.0, RANDOM_SPAN))
        await self.kill()

    # --- running ------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """Run, kill, retry, decide what is in doubt, retry; returns the row of the table."""
        plan, began = self.plan, time.monotonic()
        draw = Random(f"kill {plan.seed}")  # noqa: S311
        service_port = int(self.service.url.rpartition(":")[2])
        api = f"http://127.0.0.1:{self.prefect_port}/api"
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            to_service = await enter(proxy(service_port, Tap(self, "service")))
            to_prefect = await enter(proxy(self.prefect_port, Tap(self, "prefect")))
            stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
            client = await enter(PrefectClient(api))
            self.environment = await self._environment(to_service, to_prefect)
            run_id = await self._new_run(client)
            homes = ON_BLOCK if plan.ledger == "block" else ON_SERVER
            self.trap = next((each for each in homes if each.name == plan.boundary), None)
            at_random = plan.boundary == AT_RANDOM
            report = await self._process(run_id, draw if at_random else None)
            while report is None and self.processes < MOST_PROCESSES:
                await asyncio.sleep(SETTLES)
                await client.set_flow_run_state(run_id, Crashed(message="Killed."), force=True)
                if plan.late:
                    self.clock.ahead = 2 * AN_HOUR.total_seconds()
                if not plan.wait:
                    await self._an_hour_later(client, run_id)
                run_id = await self._again(client, run_id)
                second = self.processes == 1 and plan.kills == 2
                report = await self._process(run_id, draw if second else None)
            reports = [report] if report is not None else []
            resubmitted = await self._decide(report or {}, self.scope or f"flow-run:{run_id}")
            if resubmitted is not None:
                run_id = await self._again(client, run_id)
                reports.append(await self._process(run_id, None) or {})
            records = {name: value for name, value, _ in await self._variables(run_id)}
        counts, broken = judge(
            plan,
            self.prompts,
            self.service,
            reports=reports,
            records=records | self.places.records(),
            posts=self.posts,
            resubmitted=resubmitted or set(),
        )
        hidden = [path for path in self.places.storage.rglob(".*") if path.is_file()]
        return {
            **vars(plan),
            **{name: counts[name] for name in COUNTS},
            "kills": self.kills,
            "creates": self.posts.total(),
            "resubmitted": len(resubmitted or ()),
            "half files": len(self.damaged),
            "hidden leftovers": len(hidden),
            "broken": [*self.broken, *self.damaged, *broken],
            "seconds": round(time.monotonic() - began, 1),
        }

    async def _environment(self, to_service: int, to_prefect: int) -> dict[str, str]:
        own = "PREFECT_INTEGRATIONS_COMETAPI"
        environment = {
            "PREFECT_API_URL": f"http://127.0.0.1:{to_prefect}/api",
            "COMETAPI_BASE_URL": f"http://127.0.0.1:{to_service}",
            "COMETAPI_KEY": self.service.api_key,
            "PYTHONPATH": str(ROOT),
            f"{own}_POLL_MIN": "0.1",
        }
        if self.plan.wait:
            environment[f"{own}_CREATE_TIMEOUT"] = "1"
        if self.plan.ledger == "block":
            name = f"crash-{self.plan.seed}"
            await LocalFileSystem(basepath=str(self.places.ledger)).asave(name, overwrite=True)
            environment[f"{own}_LEDGER"] = f"block://local-file-system/{name}"
        return environment

    async def _new_run(self, client: PrefectClient) -> UUID:
        parameters = {
            "shape": self.plan.shape,
            "prompts": self.prompts,
            "storage": str(self.places.storage),
            "scope": self.scope,
        }
        return (await client.create_flow_run(self.flow, parameters=parameters)).id

    async def _again(self, client: PrefectClient, run_id: UUID) -> UUID:
        """Retry the run, as `prefect flow-run retry` does, or start another in its scope."""
        if self.plan.again == "new run":
            return await self._new_run(client)
        await client.set_flow_run_state(run_id, Scheduled(message="Retried."), force=True)
        return run_id

    async def _process(self, run_id: UUID, draw: Random | None) -> Any:
        """Execute the run as a worker does; returns what it reported, None if it was killed."""
        self.processes += 1
        report = self.folder / f"report-{self.processes}.json"
        entrypoint = f"{ROOT / 'benchmarks' / 'crash_flows.py'}:{self.flow.fn.__name__}"
        self.asked.clear()
        await self._start(
            *("-m", "prefect.engine"),
            PREFECT__FLOW_RUN_ID=str(run_id),
            PREFECT__FLOW_ENTRYPOINT=entrypoint,
            **{crash_flows.REPORT: str(report)},
        )
        killer = asyncio.create_task(self._kill_at_random(draw)) if draw else None
        await self._end()
        if killer:
            killer.cancel()
        self.damaged += await damaged_files(self.places, self.service, self.hashes)
        return json.loads(report.read_text()) if report.exists() else None

    async def _start(self, *arguments: str, **more: str) -> None:
        """Start a Python with the disk that it is to find."""
        disk = 1 if self.plan.disk == "kept" else self.processes
        work, home = self.folder / f"work-{disk}", self.folder / f"home-{disk}"
        work.mkdir(exist_ok=True)
        with (self.folder / f"log-{self.processes}.txt").open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                env=clean_environment(home, **self.environment, **more),
                cwd=work,
                stdout=log,
                stderr=log,
            )

    async def _end(self) -> None:
        assert self.process is not None  # noqa: S101 - for the type checker
        try:
            await asyncio.wait_for(self.process.wait(), PATIENCE)
        except TimeoutError:
            self.broken.append(f"process {self.processes} did not end within {PATIENCE:g} s")
            await self.kill()
        except BaseException:  # the harness itself is being ended
            with suppress(ProcessLookupError):
                self.process.kill()
            raise

    async def _decide(self, report: dict[str, Any], scope: str) -> set[str] | None:
        """What a person does: adopt what the service has, resubmit the rest; None: no need."""
        in_doubt = [prompt for prompt in report if report[prompt].get("error") == IN_DOUBT]
        resubmitted = set[str]()
        for prompt in in_doubt:
            key, ids = report[prompt]["record_key"], paid_for(self.service, prompt)
            decision = ("adopt", key, *ids) if ids else ("resubmit", key, "--yes")
            await self._start("-m", "prefect_cometapi", "ledger", *decision, "--scope", scope)
            await self._end()
            if not ids:
                resubmitted.add(prompt)
        return resubmitted if in_doubt else None

    async def _an_hour_later(self, client: PrefectClient, run_id: UUID) -> None:
        """Move the intents without an id into the past, which needs no waiting."""
        for name, value, tags in await self._variables(run_id):
            if not value.get("prediction_id"):
                sent_at = datetime.fromisoformat(value["sent_at"]) - AN_HOUR
                changed = {**value, "sent_at": sent_at.isoformat()}
                await client.update_variable(VariableUpdate(name=name, value=changed, tags=tags))

    async def _variables(self, run_id: UUID) -> list[tuple[str, dict[str, Any], list[str]]]:
        scope = self.scope or f"flow-run:{run_id}"
        rows = await asyncio.to_thread(records_on_server, self.prefect_port)
        return [
            (name, row["value"], row["tags"])
            for name, row in rows.items()
            if row["value"]["scope"] == scope
        ]


class Clock:
    """The simulator's clock, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """The time."""
        return time.time() + self.ahead


class Tap(Watcher):
    """Watches one side of the child's traffic, and kills it when the moment has come."""

    def __init__(self, case: Case, side: Side) -> None:
        self.case, self.side = case, side
        self._halved: Message | None = None

    async def request(self, request: Message) -> Message | None:
        """Counts creates."""
        if self.side == "service" and boundaries.is_create(request):
            self.case.posts[request.json["input"]["prompt"]] += 1
        if self.side == "prefect":
            self.case.asked.set()
        if self.case.struck(self.side, "request", request):
            await self.case.kill()
            return None
        return request

    async def response(self, request: Message, response: Message) -> bytes | None:
        """Holds the response back, or half of it, where that is the boundary."""
        if self.case.struck(self.side, "response", request):
            await self.case.kill()
            return None
        if self.case.struck(self.side, "half", request):
            self._halved = request
            return response.raw_head + response.body[: len(response.body) // 2]
        return response.raw

    async def passed(self, request: Message, response: Message) -> None:
        """Kills once the client has had something."""
        if self._halved is request:
            await asyncio.sleep(0.1)  # time to write it to the disk
            await self.case.kill()
        elif self.case.struck(self.side, "passed", request):
            await self.case.kill()
        elif self.case.struck(self.side, "file", request):
            deadline = time.monotonic() + 5
            while len(self.case.places.files()) < self.case.plan.nth:
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(0)  # no pause: the record follows within milliseconds
            await self.case.kill()


async def run_case(plan: Plan, folder: Path, prefect_port: int) -> dict[str, Any]:
    """Run one seed against a simulator of its own."""
    clock = Clock()
    with simulator.run(run_time=0.3, seed=plan.seed, shape="mixed", clock=clock) as service:
        return await Case(plan, folder, prefect_port, service, clock).run()
