"""Pictures are real, fit what was asked for, and tell prompts and seeds apart."""

import base64
import io
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_cometapi import simulator
from prefect_cometapi.simulator.pictures import LONG_SIDE, Picture, draw, size_of

BOAT = Picture("a paper boat on calm water", "black-forest-labs/flux-schnell", 7)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(one: bytes, other: bytes) -> float:
    images = [opened(data).convert("L").resize((64, 64)) for data in (one, other)]
    return float(ImageStat.Stat(ImageChops.difference(*images)).mean[0])


@pytest.mark.parametrize(("format_", "name"), [("webp", "WEBP"), ("jpg", "JPEG"), ("png", "PNG")])
@pytest.mark.parametrize(
    ("ratio", "size"),
    [("1:1", (768, 768)), ("16:9", (768, 432)), ("2:3", (512, 768)), ("9:21", (329, 768))],
)
def test_format_and_size(format_: str, name: str, ratio: str, size: tuple[int, int]) -> None:
    width, height = size_of(ratio)
    image = opened(draw(replace(BOAT, width=width, height=height, format=format_)))
    assert (image.format, image.size) == (name, size)
    assert max(size) == LONG_SIDE


def test_equal_pictures_are_equal_and_others_differ() -> None:
    boat = draw(BOAT)
    draw.cache_clear()
    assert draw(BOAT) == boat
    for other in (
        replace(BOAT, prompt="a lighthouse"),
        replace(BOAT, seed=8),
        replace(BOAT, index=1, count=2),
        replace(BOAT, model="stability-ai/sdxl"),
    ):
        assert difference(draw(other), boat) > 2


@pytest.mark.parametrize(
    "prompt",
    ["", "x" * 2000, "long words " * 300, "紙の船", "Ein Fuchs, «äöü»", "a\n\nb\t\0", "🚣"],
)
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    assert opened(draw(replace(BOAT, prompt=prompt))).size == (768, 768)


def test_an_edit_shows_what_it_is_built_on() -> None:
    sources = [draw(replace(BOAT, seed=seed)) for seed in (1, 2)]
    edits = [draw(replace(BOAT, prompt="make it winter", source=source)) for source in sources]
    assert difference(*edits) > 2
    assert size_of("match_input_image", sources[0]) == (768, 768)
    assert size_of("custom", b"no picture") == (768, 768)
    assert draw(replace(BOAT, source=b"no picture")) == draw(BOAT)


def run(client: httpx.Client, model: str, **given: Any) -> list[bytes]:
    path = f"/replicate/v1/models/{model}/predictions"
    reply = client.post(path, json={"input": {"prompt": "a paper boat", **given}})
    key = reply.raise_for_status().json()["id"]
    time.sleep(0.01)
    output = client.get(f"/replicate/v1/predictions/{key}").json()["output"]
    return [client.get(url).content for url in ([output] if isinstance(output, str) else output)]


def test_pictures_over_the_wire() -> None:
    headers = {"Authorization": "Bearer key"}
    with (
        simulator.run(run_time=0.0) as service,
        httpx.Client(base_url=service.url, headers=headers) as client,
    ):
        schnell, kontext = "black-forest-labs/flux-schnell", "black-forest-labs/flux-kontext-pro"
        four = run(client, schnell, num_outputs=4, seed=1, output_format="png")
        assert len(set(four)) == 4
        assert run(client, schnell, num_outputs=4, seed=1, output_format="png") == four
        assert run(client, schnell) != run(client, schnell), "no seed: each its own"
        (wide,) = run(client, schnell, aspect_ratio="16:9", output_format="jpg")
        assert (opened(wide).size, opened(wide).format) == ((768, 432), "JPEG")
        (tall,) = run(client, "stability-ai/sdxl", width=512, height=1024)
        assert opened(tall).size == (384, 768)

        data = f"data:image/jpeg;base64,{base64.b64encode(wide).decode()}"
        url = next(iter(service.predictions))
        here = f"{service.url}/files/{url}/out-0.png"
        (plain,) = run(client, kontext, seed=5)
        for uri, size in ((data, (768, 432)), (here, (768, 768))):
            (edit,) = run(client, kontext, seed=5, input_image=uri)
            assert opened(edit).size == size
            assert difference(edit, plain) > 2
        broken = "data:image/png;base64,AAA"
        assert run(client, kontext, seed=5, input_image=broken) == [plain]
