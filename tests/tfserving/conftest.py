"""One model server for all tests of `tfserving`: the program that `TFS_BINARY` names, or the server of this project."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")

from cluster.launchers import LocalLauncher
from cluster.model_servers.selection import Settings, find_binary
from cluster.model_servers.servers import ModelServers
from tests.running import process_of
from tests.tfserving import zoo
from tfserving.config import read_config
from tfserving.grpc_client import Client
from transports.address import Address

BINARY = find_binary(os.environ.get("TFS_BINARY")) if "TFS_BINARY" in os.environ else None


@dataclass(frozen=True)
class Server:
    """A model server with every model of `zoo`."""

    launcher: LocalLauncher
    kind: str
    grpc: Address
    rest: Address

    @property
    def program(self) -> psutil.Process:
        """The process that serves: the launcher's process, or the program that this process has started."""
        process = process_of(self.launcher, "model-server-0")
        return [process, *process.children(recursive=True)][-1]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the models of `zoo` and their `ModelServerConfig`."""
    folder = tmp_path_factory.mktemp("models")
    zoo.write(folder)
    return folder


@pytest.fixture(scope="session")
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(scope="session")
def server(launcher: LocalLauncher, models: Path) -> Iterator[Server]:
    held = {model.name: model.folder.parent for model in read_config(models / zoo.CONFIG)}
    settings = Settings(BINARY, threads=1)
    with ModelServers(settings, launcher, [held]) as servers:
        (found,) = servers.addresses()
        yield Server(launcher, settings.kind, **found)


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


class Rest:
    """A connection to the REST interface that stays open."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection(*server.rest, timeout=20)

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of the answer. A body that is no string is written as JSON."""
        sent = body if body is None or isinstance(body, str) else json.dumps(body)
        self.connection.request(method, path, sent)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    rest = Rest(server)
    yield rest
    rest.connection.close()
