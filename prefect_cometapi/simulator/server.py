"""Run the simulator in a thread, and talk to it from the program that runs it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_cometapi.simulator.plan import FaultPlan
from prefect_cometapi.simulator.records import Counts, RecordedRequest, Recorder, SeenPrediction
from prefect_cometapi.simulator.service import Service, Settings, Shape


class Simulator:
    """A running simulator. Everything here may be used from any thread.

    Attributes:
        url: Its root, for `COMETAPI_BASE_URL`.
        api_key: A key that it accepts, for `COMETAPI_KEY`.
    """

    def __init__(
        self, url: str, api_key: str, service: Service, plan: FaultPlan, recorder: Recorder
    ) -> None:
        self.url = url
        self.api_key = api_key
        self._service = service
        self._plan = plan
        self._recorder = recorder

    @property
    def counts(self) -> Counts:
        """What has happened so far: a snapshot."""
        return self._recorder.counts()

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last 10,000 requests, oldest first. One that is under way is not among them yet."""
        return self._recorder.requests()

    @property
    def predictions(self) -> dict[str, SeenPrediction]:
        """The predictions as they are now, by id, oldest first."""
        return {
            key: SeenPrediction(key, each.model.name, each.input, self._service.state(each).status)
            for key, each in self._service.predictions.copy().items()
        }

    @property
    def faults(self) -> dict[str, float]:
        """The faults that happen by rate."""
        return dict(self._plan.rates)

    def headers_of(self, operation: str) -> list[Mapping[str, str]]:
        """The headers of each request of an operation, oldest first."""
        return [each.headers for each in self.requests if each.operation == operation]

    def script(self, operation: str, names: Iterable[str]) -> None:
        """Queue faults for the next requests of an operation, one each.

        Args:
            operation: "create", "query", "cancel", "file", "chat", or "prediction" for what
                becomes of the next predictions.
            names: Names of faults; the short ones will do ("lost"). "ok" stands for none.

        Raises:
            ValueError: There is no such operation or fault.
        """
        self._plan.script(operation, names)

    def script_at(self, name: str, number: int) -> None:
        """Let only the nth request of an operation, counted from now, meet a fault."""
        self._plan.script_at(name, number)

    def set_fault(self, name: str, rate: float) -> None:
        """Let a share of requests meet a fault, like `set_fault("query.502", 0.1)`."""
        self._plan.set_rate(name, rate)

    def clear_faults(self) -> None:
        """Behave from now on. Predictions that are doomed already stay so."""
        self._plan.clear()


@contextmanager
def run(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    api_key: str | None = None,
    seed: int = 0,
    shape: Shape = "plain",
    run_time: float | None = None,
    speed: float = 1.0,
    output_ttl: float = 3600.0,
    faults: Mapping[str, float] | None = None,
    public_url: str | None = None,
    lure_url: str | None = None,
    retry_after: float = 1.0,
    oversize: int = 64 * 1024 * 1024,
    clock: Callable[[], float] = time.time,
) -> Iterator[Simulator]:
    """Run a simulator for the length of a `with` block.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: The only key to accept. Without it any key does, but not none.
        seed: Decides ids, times and faults by rate.
        shape: Predictions as they are, inside the gateway's envelope, or each second one so.
        run_time: Median of the run time in seconds, in place of each model's own.
        speed: How much faster than real time predictions run and outputs expire.
        output_ttl: Seconds from completion until inputs, outputs and logs are deleted.
        faults: Rates of faults by name, like `{"query.502": 0.1}`.
        public_url: Root of the URLs of output files, if it is not the one that the client used.
        lure_url: Root of a host that is not to be trusted: redirects and `urls` lead there.
        retry_after: The seconds that a 429 asks to wait.
        oversize: How many bytes too many an oversized file has.
        clock: The time, in seconds since the epoch.

    Yields:
        The running simulator.
    """
    settings = Settings(
        api_key=api_key,
        seed=seed,
        shape=shape,
        run_time=run_time,
        speed=speed,
        output_ttl=output_ttl,
        retry_after=retry_after,
        oversize=oversize,
        public_url=public_url and public_url.rstrip("/"),
        lure_url=lure_url and lure_url.rstrip("/"),
        clock=clock,
    )
    plan, recorder = FaultPlan(seed, faults), Recorder()
    service = Service(settings, plan, recorder)
    # Bound here, so that the port is ours before anybody is told of it.
    listener = socket.create_server((host, port), backlog=1024)
    config = uvicorn.Config(
        service,
        http=_protocol(recorder),
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    server = _Server(config)
    thread = threading.Thread(
        target=server.run, args=([listener],), name="cometapi-simulator", daemon=True
    )
    thread.start()
    try:
        if not server.ready.wait(10):
            raise RuntimeError(f"The simulator did not start on {host}:{port}; see the log.")
        shown = "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104
        url = f"http://{shown}:{listener.getsockname()[1]}"
        yield Simulator(url, api_key or "sim-key", service, plan, recorder)
    finally:
        server.stop()
        thread.join(2)
        service.artists.shutdown(wait=False, cancel_futures=True)


class _Server(uvicorn.Server):
    """A server that starts and stops within milliseconds, whoever is still waiting for a reply."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # which renews the date header
            self.ready.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=0.5)


def _protocol(recorder: Recorder) -> type[H11Protocol]:
    """Uvicorn's HTTP protocol, which also counts connections and lets requests reach theirs."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            recorder.count("connection")
            # asyncio sets this only on sockets made with a protocol number, which ours is not:
            # without it every reply waits 40 ms for the client's delayed ACK.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.app_state = {"transport": transport}
            super().connection_made(transport)

    return Protocol
