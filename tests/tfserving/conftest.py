"""One model server for all tests of this folder: the one that `TFS_BINARY` names, and ours where it names none."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")

from cluster.model_servers.process import ModelServer
from cluster.model_servers.selection import Settings, find_binary
from tests.tfserving import zoo
from tfserving.grpc_client import Client

BINARY = find_binary(os.environ.get("TFS_BINARY")) if "TFS_BINARY" in os.environ else None


def family(pid: int) -> list[int]:
    """The process and its descendants: where it is a keeper, the server is the last of them."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the models of `zoo`, and the file that names them to a server."""
    folder = tmp_path_factory.mktemp("models")
    zoo.write(folder)
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ModelServer]:
    with ModelServer.of_config(models / zoo.CONFIG, Settings(BINARY, threads=1)) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: ModelServer) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


class Rest:
    """A kept connection to the REST interface."""

    def __init__(self, server: ModelServer) -> None:
        self.connection = http.client.HTTPConnection(*server.rest, timeout=20)

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the JSON of the answer. A body that is no string is written as JSON."""
        sent = body if body is None or isinstance(body, str) else json.dumps(body)
        self.connection.request(method, path, sent)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def rest(server: ModelServer) -> Iterator[Rest]:
    rest = Rest(server)
    yield rest
    rest.connection.close()
