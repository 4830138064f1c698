"""The outputs and errors of the gRPC client, with the real server (`TFS_BINARY`) or with this project's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.model_servers.client import ServedStage
from tests.faults.common import frozen
from tests.lateness import in_time
from tests.models import MODELS, flat_outputs, inputs_for
from tests.tfserving import zoo
from tests.tfserving.conftest import Server
from tfserving import grpc_client as module
from tfserving.grpc_client import Client
from tfserving.rest_client import RestClient
from tfserving.tensors import LIMIT
from transports.address import Address
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    WireError,
)

DEADLINE, ALLOWANCE, PATIENCE = 2.0, 1.0, 20.0
"""Seconds of a call to a suspended server, seconds in which its message may be written, and seconds of other calls."""
Y = {"y": "float32"}
X = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")


@pytest.mark.parametrize("rows", [4, 0])
@pytest.mark.parametrize("dtype", zoo.DTYPES)
def test_every_dtype_crosses_unchanged(client: Client, dtype: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make = module.predict_pb2.PredictRequest

    def signed(**fields: Any) -> Any:
        request = make(**fields)
        request.model_spec.signature_name = dtype
        return request

    monkeypatch.setattr(module.predict_pb2, "PredictRequest", signed)
    sent = zoo.values(dtype, (rows, 3))
    found = client.predict("every", {"x": sent})["y"]
    assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
    assert found.tobytes() == sent.tobytes()


def test_the_stages_of_a_plan_give_the_outputs_of_the_model(client: Client, models: Path) -> None:
    served, model = zoo.served(models), MODELS[zoo.PARTITIONED]()
    inputs = inputs_for(model, batch=3)
    tensors = dict(zip(served.plan.inputs, inputs, strict=True))
    for stage in served.plan.stages:
        execute = ServedStage(client, served, stage)
        tensors |= zip(stage.outputs, execute([tensors[name] for name in stage.inputs]), strict=True)
    for name, expected in zip(served.plan.outputs, flat_outputs(model, inputs), strict=True):
        np.testing.assert_allclose(tensors[name], expected, rtol=1e-5, atol=1e-6)


def test_threads_share_a_client(client: Client) -> None:
    def predict(number: int) -> None:
        for _ in range(20):
            np.testing.assert_array_equal(client.predict("scale", {"x": X + number})["y"], (X + number) * 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predict, range(8)))


class Huge:
    nbytes = LIMIT + 1


ERRORS: dict[str, tuple[dict[str, Any], type[WireError], str]] = {
    "other model": ({"model": "other", "inputs": {"x": X}}, RemoteError, "NOT_FOUND: Servable not found"),
    "other input": ({"model": "scale", "inputs": {}}, MalformedMessage, "INVALID_ARGUMENT: input size does not match"),
    "other output": ({"model": "scale", "inputs": {"x": X}, "outputs": ["z"]}, MalformedMessage, "alias not found"),
    "no time": ({"model": "scale", "inputs": {"x": X}, "timeout": -1.0}, DeadlineExceeded, "DEADLINE_EXCEEDED"),
    "too large": ({"model": "scale", "inputs": {"x": Huge()}}, MessageTooLarge, "above the limit"),
    "no number": ({"model": "scale", "inputs": {"x": X.astype("U3")}}, MalformedMessage, "dtype"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_mapped(client: Client, case: str) -> None:
    arguments, kind, words = ERRORS[case]
    with pytest.raises(kind, match=words) as caught:
        client.predict(**arguments)
    assert type(caught.value) is kind


@pytest.mark.parametrize("kind", [Client, RestClient])
def test_a_call_to_a_suspended_server_ends_at_its_deadline(server: Server, kind: type[Client | RestClient]) -> None:
    """The message is larger than the buffers of the connection."""
    large = {"x": np.zeros((2**21, 2), "float32")}
    address = server.grpc if kind is Client else server.rest
    with kind(address) as client:
        assert client.predict("scale", {"x": X}, Y, PATIENCE)
        with frozen(server.program.pid), in_time(1.1 * DEADLINE + ALLOWANCE), pytest.raises(DeadlineExceeded):
            client.predict("scale", large, Y, DEADLINE)
        np.testing.assert_array_equal(client.predict("scale", {"x": X}, Y, PATIENCE)["y"], X * 10)


def test_an_address_without_a_server() -> None:
    with Client(Address("127.0.0.1", 1)) as client:
        with pytest.raises(ConnectionLost, match="UNAVAILABLE"):
            client.predict("scale", {"x": X}, timeout=5.0)
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1: model 'scale' is not available after 0 s"):
            client.wait_available("scale", timeout=0.1)


def test_waiting_for_an_unknown_model_ends_at_the_deadline(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match="model 'other' is not available"):
        client.wait_available("other", timeout=0.1)


def test_waiting_ends_when_the_process_has_ended(client: Client) -> None:
    def check() -> None:
        raise RemoteError("the process ended")

    with pytest.raises(RemoteError, match="the process ended"):
        client.wait_available("other", timeout=60.0, check=check)


def test_the_kind_of_the_server_has_a_title(server: Server) -> None:
    assert server.kind in ("TF Serving", "TFS-compatible")
