"""In every kind of storage, outputs of every kind are saved under the same names each time."""

from __future__ import annotations

import hashlib

import pytest

from prefect_cometapi.storage import awrite_text
from tests.servers import ID, PNG, picture, serve
from tests.storage_blocks.conftest import Place
from tests.storages import save

JSON = b'{\n  "score": 0.5\n}'


@pytest.mark.parametrize("prefix", ["", "2026-11-22/gallery of boats"])
async def test_outputs_of_every_kind(prefix: str, place: Place) -> None:
    start = f"{prefix}/{ID}" if prefix else ID
    with serve(picture) as server:
        one, two = f"{server.url}/1.png", f"{server.url}/2.png"
        for output, expected in [
            (one, {"0.png": PNG}),
            ([one, two], {"0.png": PNG, "1.png": PNG}),
            ("Ahoy, Käpt'n", {"0.txt": "Ahoy, Käpt'n".encode()}),
            ({"score": 0.5}, {"0.json": JSON}),
        ]:
            files = await save(server, place.storage, output=output, prefix=prefix)
            found = place.everything()
            assert {file.name: found[file.name] for file in files} == {
                f"{start}-{name}": content for name, content in expected.items()
            }
            for file in files:
                assert file.location.endswith(file.name)
                assert file.sha256 == hashlib.sha256(found[file.name]).hexdigest()
                assert file.size == len(found[file.name])
    ends = ("0.png", "1.png", "0.txt", "0.json")
    assert set(place.everything()) == {f"{start}-{end}" for end in ends}


async def test_saved_again_they_are_where_they_were(place: Place) -> None:
    with serve(picture) as server:
        first = await save(server, place.storage, prefix="day")
        there = place.everything()
        assert await save(server, place.storage, prefix="day") == first
    assert place.everything() == there == {f"day/{ID}-0.png": PNG}


async def test_a_text_takes_the_place_of_the_one_before(place: Place) -> None:
    await awrite_text(place.storage, "day/manifest.jsonl", "one\n")
    await awrite_text(place.storage, "day/manifest.jsonl", "two\n")
    assert place.everything() == {"day/manifest.jsonl": b"two\n"}
