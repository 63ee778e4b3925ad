"""A stand-in CometAPI: the same routes, no key, no spending, and it misbehaves on demand.

    python -m prefect_cometapi.simulator

or, inside a program or a test,

    from prefect_cometapi import simulator

    with simulator.run(run_time=0.05) as service:
        service.script("create", ["lost"])
        ...  # use service.url and service.api_key
        assert service.counts.charged == 1

or the pytest fixture `cometapi_simulator`. It draws with Pillow:
`pip install "prefect-cometapi[images]"`.

| model | median run time | output |
|---|---|---|
| `black-forest-labs/flux-schnell` | 1.5 s | list of URLs |
| `black-forest-labs/flux-kontext-pro` | 7 s | one URL |
| `black-forest-labs/flux-2-pro` | 12 s | one URL |
| `stability-ai/sdxl` | 5 s | list of URLs |
| `simulator/url` | 1 s | one URL |
| `simulator/object` | 1 s | an object with URLs inside |
| `simulator/text-tokens` | 0.8 s | list of text tokens |
| `simulator/text` | 0.8 s | one text |
| `simulator/number` | 0.5 s | a number |
| `simulator/data-uri` | 0.5 s | a picture in a `data:` URI |
| `simulator/nothing` | 0.5 s | null |
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_cometapi.simulator.faults import FAULTS, Fault
    from prefect_cometapi.simulator.records import Counts, RecordedRequest, SeenPrediction
    from prefect_cometapi.simulator.server import Simulator, run

__all__ = [
    "FAULTS",
    "Counts",
    "Fault",
    "RecordedRequest",
    "SeenPrediction",
    "Simulator",
    "run",
]

_HOMES = {
    "FAULTS": "faults",
    "Fault": "faults",
    "Counts": "records",
    "RecordedRequest": "records",
    "SeenPrediction": "records",
    "Simulator": "server",
    "run": "server",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: pytest loads this package in every test run."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
