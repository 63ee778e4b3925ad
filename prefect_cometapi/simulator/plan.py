"""Which request meets which fault."""

import difflib
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from prefect_cometapi.simulator.faults import FAULTS, OPERATIONS, Fault


def find_fault(name: str, operation: str | None = None) -> Fault:
    """Look a fault up by name; within an operation the short name is enough.

    Raises:
        ValueError: There is no such fault.
    """
    full = name if operation is None or name.startswith(f"{operation}.") else f"{operation}.{name}"
    if full not in FAULTS:
        near = difflib.get_close_matches(full, FAULTS, n=3, cutoff=0.4)
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise ValueError(f"There is no fault {full!r}.{hint} `--list-faults` shows all of them.")
    return FAULTS[full]


class FaultPlan:
    """Which request meets which fault: scripted ones first, then by rate. Thread-safe."""

    def __init__(self, seed: int, rates: Mapping[str, float] | None = None) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._scripted: defaultdict[str, dict[int, Fault | None]] = defaultdict(dict)
        self.rates: dict[str, float] = {}
        for name, rate in (rates or {}).items():
            self.set_rate(name, rate)

    def script(self, operation: str, names: Iterable[str]) -> None:
        """Queue faults for the next requests of an operation; "ok" stands for none."""
        if operation not in OPERATIONS:
            raise ValueError(f"There is no operation {operation!r}, only {', '.join(OPERATIONS)}.")
        faults = [None if name == "ok" else find_fault(name, operation) for name in names]
        with self._lock:
            scripted = self._scripted[operation]
            start = max([self._seen[operation], *scripted]) + 1
            scripted.update(enumerate(faults, start))

    def script_at(self, name: str, number: int) -> None:
        """Let the nth request of an operation, counted from now and from 1, meet a fault."""
        fault = find_fault(name)
        with self._lock:
            self._scripted[fault.operation][self._seen[fault.operation] + number] = fault

    def set_rate(self, name: str, rate: float) -> None:
        """Let a share of the requests meet a fault; 0 ends it."""
        if not 0 <= rate <= 1:
            raise ValueError(f"The rate of a fault lies between 0 and 1, not at {rate}.")
        with self._lock:
            self.rates = {**self.rates, find_fault(name).name: rate}

    def clear(self) -> None:
        """Behave."""
        with self._lock:
            self._scripted.clear()
            self.rates = {}

    def choose(self, operation: str) -> Fault | None:
        """The fault that the next request of an operation meets."""
        with self._lock:
            self._seen[operation] += 1
            number, scripted = self._seen[operation], self._scripted[operation]
            if number in scripted:
                return scripted.pop(number)
            if not self.rates:
                return None
            draw = random.Random(f"fault {self._seed} {operation} {number}").random()  # noqa: S311
            for name, rate in self.rates.items():
                if FAULTS[name].operation == operation:
                    if draw < rate:
                        return FAULTS[name]
                    draw -= rate
            return None
