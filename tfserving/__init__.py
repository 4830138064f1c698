"""The official TensorFlow Serving API: a compatible model server (`tfserving.server`), wire formats, and clients.

Importing this package loads neither TensorFlow, NumPy nor the official stubs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from transports.address import Address
    from transports.base import Array

__all__ = ["Predictor", "connect", "missing_libraries"]

_CLIENTS: Mapping[str, str] = {"grpc": "tfserving.grpc_client:Client", "rest": "tfserving.rest_client:RestClient"}
"""Interface -> "module:class"."""
_LIBRARIES: Mapping[str, str] = {
    "tensorflow_serving": "'tensorflow-serving-api>=2.20,<2.22'",
    "orjson": "'orjson>=3.10'",
    "uvicorn": "'uvicorn>=0.34'",
    "httptools": "'httptools>=0.6.3'",
    "urllib3": "'urllib3>=2.2'",
}
"""Imported library -> its requirement for pip, as in the package's extra `serving`."""


class Predictor(Protocol):
    """A client of a model server, over either interface."""

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, str], timeout: float
    ) -> dict[str, Array]:
        """The `outputs` (key -> dtype) of the model's default signature as read-only arrays, within `timeout` seconds.

        Raises a `WireError`.
        """
        ...

    def close(self) -> None: ...


def connect(interface: str, address: Address) -> Predictor:
    """A client of the model server at `address`, over `grpc` or `rest`."""
    module, _, name = _CLIENTS[interface].partition(":")
    return cast(Predictor, getattr(importlib.import_module(module), name)(address))


def missing_libraries() -> list[str]:
    """The libraries that are not installed, as requirements for pip."""
    return [requirement for name, requirement in _LIBRARIES.items() if importlib.util.find_spec(name) is None]
