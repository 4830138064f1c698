"""A client of a model server over gRPC, with the official stubs.

Requests carry their tensors as `tensor_content`; answers are read in both forms. Errors of the server and of gRPC are
raised as errors of `transports.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Self

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfserving.tensors import LIMIT, decode, encode_into
from transports.address import Address
from transports.base import Array
from transports.errors import ConnectError, DeadlineExceeded, MessageTooLarge, RemoteError
from transports.grpc_client import CHANNEL_OPTIONS, ask, error_of

OPTIONS = (
    ("grpc.max_receive_message_length", LIMIT),
    ("grpc.max_send_message_length", LIMIT),
    *CHANNEL_OPTIONS,
)
POLL = 0.05
"""Seconds between two calls for the state of a model that is being loaded; the protocol has no notification."""

END = get_model_status_pb2.ModelVersionStatus.END
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


class Client:
    """A kept connection to a model server. Thread-safe. A context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(str(address), options=OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def wait_available(self, model: str, timeout: float, check: Callable[[], None] = lambda: None) -> None:
        """Return once a version of `model` is AVAILABLE.

        `check` runs before each call, and may raise if the server's process has ended. Raises `ConnectError` if the
        server does not answer within `timeout` seconds, `DeadlineExceeded` if the model is not loaded by then, and
        `RemoteError` if loading failed.
        """
        deadline = time.monotonic() + timeout
        answered = False
        while True:
            check()
            state = self._state(model, timeout=min(1.0, max(POLL, deadline - time.monotonic())))
            if state == AVAILABLE:
                return
            answered = answered or state is not None
            if time.monotonic() > deadline:
                kind = DeadlineExceeded if answered else ConnectError
                raise kind(f"{self.address}: model {model!r} is not available after {timeout:.0f} s")
            time.sleep(POLL)

    def _state(self, model: str, timeout: float) -> int | None:
        """The state of the version that will be served first; None if the server does not answer yet."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = self._models.GetModelStatus(request, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                return None
            if error.code() is grpc.StatusCode.NOT_FOUND:  # normal while the server starts
                return int(get_model_status_pb2.ModelVersionStatus.UNKNOWN)
            raise error_of(error, self.address, timeout) from None
        states = {version.state: version.status.error_message for version in answer.model_version_status}
        if set(states) == {END} and states[END]:
            raise RemoteError(f"{self.address}: model {model!r} cannot be loaded: {states[END]}")
        return AVAILABLE if AVAILABLE in states else max(states, default=0)

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Collection[str] = (), timeout: float = 30.0
    ) -> dict[str, Array]:
        """The outputs named in `outputs` (empty: all) of the model's signature `serving_default`, as read-only arrays.

        Raises a `WireError`; `MessageTooLarge` above 2 GiB.
        """
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = model
        if (size := sum(array.nbytes for array in inputs.values())) > LIMIT:
            raise MessageTooLarge(f"the inputs of {model!r} take {size} bytes, above the limit of {LIMIT} bytes")
        for name, array in inputs.items():
            encode_into(request.inputs[name], array, content=True)
        try:
            answer = ask(self._prediction.Predict, request, size, timeout)
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise error_of(error, self.address, timeout) from None
        return {name: decode(name, proto) for name, proto in answer.outputs.items()}

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
