"""What a prediction gives, by its model's kind of output."""

import base64
import random
import re
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from prefect_cometapi.simulator.pictures import Picture, draw, size_of
from prefect_cometapi.simulator.predictions import Prediction

_FILE = re.compile(r"/files/(\w+)/out-(\d+)\.\w+")


def output(prediction: Prediction, root: str) -> Any:
    """The output of a prediction that succeeded.

    Args:
        prediction: The prediction.
        root: Where the files are served from.
    """
    prompt = str(prediction.input.get("prompt", ""))
    words = f"A simulated answer to: {prompt}"
    urls = [
        f"{root}/files/{prediction.id}/{file_name(prediction, index)}"
        for index in range(prediction.model.files(prediction.input))
    ]
    match prediction.model.output:
        case "urls":
            return urls
        case "url":
            return urls[0]
        case "object":
            return {"image": urls[0], "more": {"mask": urls[1]}, "caption": words}
        case "tokens":
            return re.findall(r"\s*\S+", words)
        case "text":
            return words
        case "number":
            return round(random.Random(_seed(prediction)).random(), 6)  # noqa: S311
        case "data":
            small = Picture(prompt, prediction.model.name, _seed(prediction), 0, 1, 96, 96, "png")
            return "data:image/png;base64," + base64.b64encode(draw(small)).decode()
        case "null":
            return None


def file_name(prediction: Prediction, index: int) -> str:
    """The name under which an output file is served."""
    format_ = prediction.input.get("output_format", prediction.model.output_format)
    return f"out-{index}.{format_}"


def picture(prediction: Prediction, index: int, source: bytes | None) -> Picture:
    """What the nth file of a prediction shows."""
    given = prediction.input
    ratio = given.get("aspect_ratio", "match_input_image" if source else "1:1")
    if "width" in given or "height" in given:
        ratio = f"{given.get('width', 1024)}:{given.get('height', 1024)}"
    width, height = size_of(ratio, source)
    return Picture(
        prompt=str(given.get("prompt", "")),
        model=prediction.model.name,
        seed=_seed(prediction),
        index=index,
        count=prediction.model.files(given),
        width=width,
        height=height,
        format=given.get("output_format", prediction.model.output_format),
        quality=given.get("output_quality", 80),
        source=source,
    )


def source_uri(prediction: Prediction) -> str:
    """The URI of the picture that the prediction is to build on; empty if there is none."""
    given = prediction.input
    return str(
        given.get("input_image") or given.get("image") or (*given.get("input_images", ()), "")[0]
    )


def file_of(uri: str) -> tuple[str, int]:
    """The prediction id and the number that a file's URL or path names; an empty id if none."""
    found = _FILE.fullmatch(urlsplit(uri).path)
    return (found[1], int(found[2])) if found else ("", 0)


def data_of(uri: str) -> bytes | None:
    """The bytes inside a `data:` URI; None if it is none, or broken."""
    head, comma, body = uri.partition(",")
    if not comma or not head.startswith("data:"):
        return None
    try:
        raw = unquote_to_bytes(body)
        return base64.b64decode(raw) if head.endswith(";base64") else raw
    except ValueError:
        return None


def _seed(prediction: Prediction) -> int:
    # Without a seed in the input each prediction has one of its own.
    return int(prediction.input.get("seed", int(prediction.id, 36) % 2**31))
