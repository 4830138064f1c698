"""The gRPC interface of a server of ours: the official services, bound to `tfserving.predict`."""

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
    ("grpc.so_reuseport", 0),  # or a second server takes half of the calls of a port that is in use
)


class GrpcServer:
    """Serves `models` at `host`:`port` (0: a free one), with at most `workers` requests being handled at a time."""

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
        """Take no more requests; what is being handled is not waited for."""
        self._server.stop(None).wait()


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """What it leaves out (Classify, Regress, MultiInference) the official base class answers with UNIMPLEMENTED."""

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
    """What `work` gives; where it raises, the call ends with the status that stands for that."""
    try:
        return work()
    except Exception as error:
        refusal = of_exception(error)
    return context.abort(refusal.code, refusal.text)
