"""The gRPC interface of the server: the official services, implemented by `tfserving.predict`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from tfserving import predict
from tfserving.models import Models
from tfserving.status import of_exception
from tfserving.tensors import LIMIT
from transports.address import Address
from transports.errors import ConnectError

OPTIONS = (
    ("grpc.max_receive_message_length", LIMIT),
    ("grpc.max_send_message_length", LIMIT),
    ("grpc.so_reuseport", 0),  # otherwise a second server could bind the same port and get half of the calls
)


class GrpcServer:
    """Serves `models` at `host`:`port` (0: a free one), and handles up to `workers` requests at a time.

    `content`: answer with `tensor_content` instead of lists of values. Raises `ConnectError` if the port cannot be
    bound.
    """

    def __init__(self, models: Models, host: str, port: int, workers: int, *, content: bool) -> None:
        executor = ThreadPoolExecutor(workers, thread_name_prefix="grpc")
        self._server = grpc.server(executor, options=OPTIONS)
        prediction = _Prediction(models, content)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Model(models), self._server)
        try:
            self.address = Address(host, self._server.add_insecure_port(f"{host}:{port}"))
        except RuntimeError as error:
            raise ConnectError(f"cannot bind {host}:{port}: {error}") from error
        self._server.start()

    def close(self) -> None:
        """Stop serving, without waiting for requests in flight."""
        self._server.stop(None).wait()


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """For Classify, Regress and MultiInference the official base class answers UNIMPLEMENTED."""

    def __init__(self, models: Models, content: bool) -> None:
        self._models = models
        self._content = content

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answer(lambda: predict.predict(self._models, request, content=self._content), context)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answer(lambda: predict.metadata(self._models, request), context)


class _Model(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answer(lambda: predict.status(self._models, request), context)


def _answer(work: Callable[[], Any], context: grpc.ServicerContext) -> Any:
    """The result of `work`; an exception ends the call with the status of its `Refusal`."""
    try:
        return work()
    except Exception as error:
        refusal = of_exception(error)
    return context.abort(refusal.code, refusal.text)
