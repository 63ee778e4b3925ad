"""Replicate's own client, which nobody here wrote, works with the simulator."""

import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

from prefect_cometapi import simulator

MODEL = "black-forest-labs/flux-schnell"
FILES = "https://replicate.delivery"


class Delivery(httpx.HTTPTransport):
    """Takes the way to replicate.delivery to the simulator: the client only reads https files."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = httpx.URL(root)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        root = self.root
        request.url = request.url.copy_with(scheme="http", host=root.host, port=root.port)
        return super().handle_request(request)


@pytest.fixture
def service() -> Iterator[simulator.Simulator]:
    with simulator.run(run_time=0.05, public_url=FILES, api_key="sim-1") as running:
        yield running


@pytest.fixture
def client(service: simulator.Simulator) -> Client:
    transport = Delivery(service.url)
    client = Client(api_token="sim-1", base_url=f"{service.url}/replicate", transport=transport)
    client.poll_interval = 0.02
    return client


def test_run_and_read(client: Client, service: simulator.Simulator) -> None:
    output = client.run(MODEL, {"prompt": "a paper boat", "num_outputs": 2, "output_format": "png"})
    assert isinstance(output, list)
    for file in output:
        assert isinstance(file, FileOutput)
        assert Image.open(io.BytesIO(file.read())).format == "PNG"
    assert service.counts.charged == 1
    assert service.headers_of("create")[0]["authorization"] == "Bearer sim-1"
    # The client's known weakness, which ours must not share.
    assert service.headers_of("file")[0]["authorization"] == "Bearer sim-1"


def test_create_get_wait_cancel(client: Client, service: simulator.Simulator) -> None:
    prediction = client.predictions.create(model=MODEL, input={"prompt": "a boat"})
    assert prediction.status == "starting"
    prediction.wait()
    assert prediction.progress is not None
    assert prediction.progress.percentage == 1.0
    again = client.predictions.get(prediction.id)
    assert (again.status, again.output) == ("succeeded", prediction.output)
    service.script("prediction", ["endless", "failed"])
    endless = client.models.predictions.create(MODEL, {"prompt": "a boat"})
    endless.cancel()
    assert client.predictions.cancel(endless.id).status == "canceled"
    with pytest.raises(ModelError, match="CUDA"):
        client.run(MODEL, {"prompt": "a boat"})


def test_other_outputs_and_errors(client: Client) -> None:
    data = client.run("simulator/data-uri", {"prompt": "x"})
    assert isinstance(data, FileOutput)
    assert Image.open(io.BytesIO(data.read())).size == (96, 96)
    assert client.run("simulator/nothing", {"prompt": "x"}) is None
    assert "".join(client.run("simulator/text-tokens", {"prompt": "x"})).endswith("answer to: x")
    with pytest.raises(ReplicateError) as caught:
        client.run(MODEL, {"prompt": "x", "num_outputs": 9})
    assert caught.value.status == 422
    assert caught.value.title == "Input validation failed"


async def test_async(service: simulator.Simulator) -> None:
    client = Client(api_token="sim-1", base_url=f"{service.url}/replicate")
    client.poll_interval = 0.02
    urls = await client.async_run(MODEL, {"prompt": "a boat"}, use_file_output=False)
    assert isinstance(urls, list)
    file = FileOutput(urls[0].replace(FILES, service.url), client)
    assert Image.open(io.BytesIO(await file.aread())).format == "WEBP"
    prediction = await client.predictions.async_create(model=MODEL, input={"prompt": "a boat"})
    await prediction.async_wait()
    assert prediction.status == "succeeded"
    again = await client.predictions.async_get(prediction.id)
    assert again.output == prediction.output
    assert (await client.predictions.async_cancel(prediction.id)).status == "succeeded"
