"""Starts a model server, the real one where there is one and ours elsewhere, watches over it, and ends it.

    with ModelServer.of_stage(folder, served.models["stage-0"]) as server:
        Client(server.grpc).predict(...)

Whatever way this process ends, the server does too: it sees its standard input close.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from cluster.errors import ClusterDown
from cluster.launch import START, last_words
from cluster.model_servers.selection import Settings
from tfserving.config import read_config
from tfserving.grpc_client import Client
from transports.address import Address
from transports.errors import WireError
from transports.process import parse_ready

HOST = "127.0.0.1"
SETTINGS = Settings()
GRACE = 10.0
"""Seconds that a server has to end by itself before it is killed."""


class ModelServer:
    """A running server, every model in it available. A context manager; on exit the process is gone.

    Raises `ClusterDown`, with the server's last words, where it ends before that or does not get there in time.
    """

    def __init__(self, flags: Sequence[str], models: Sequence[str], settings: Settings) -> None:
        """`flags` say which `models` there are."""
        self.kind = settings.kind
        self.models = tuple(models)
        self._settings = settings
        self._flags = [*flags, *settings.flags()]
        self._stack = contextlib.ExitStack()

    @classmethod
    def of_stage(cls, folder: Path, model: str, settings: Settings = SETTINGS) -> Self:
        """A server for one model of an exported plan (`partitioning.export`)."""
        flags = [f"--model_name={model}", f"--model_base_path={(folder / model).absolute()}"]
        return cls(flags, [model], settings)

    @classmethod
    def of_config(cls, config: Path, settings: Settings = SETTINGS) -> Self:
        """A server for all models of a `models.config`, or of a `server-<i>.config`. Raises `UsageError`."""
        models = [model.name for model in read_config(config)]
        return cls([f"--model_config_file={config.absolute()}"], models, settings)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start().wait()
            undo.pop_all()
        return self

    def start(self) -> Self:
        """Start the process and return at once: its models load meanwhile."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="splitbench-serving-")))
        self._log = folder / "log"
        self._start_real() if self._settings.binary else self._start_ours()
        return self

    def wait(self) -> Mapping[str, Address]:
        """The address of each interface, once every model is available."""
        if not self._settings.binary:
            ready = self._await_ready()
            self.grpc, self.rest = ready["grpc"], ready["rest"]
        self._await_models()
        return {"grpc": self.grpc, "rest": self.rest}

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that this one started: ours itself, or the keeper of the real one."""
        return self._process.pid

    def check(self, patience: float = 0.0) -> None:
        """Raise `ClusterDown` if the server has ended, or ends within `patience` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(patience)
            raise ClusterDown(f"{self._settings.name} ({self.kind}) ended with status {status}{last_words(self._log)}")

    def close(self) -> None:
        """End the server. Idempotent."""
        self._stack.close()

    def _start_ours(self) -> None:
        flags = ["--port=0", "--rest_api_port=0", "--until-eof", *self._flags]
        self._start([sys.executable, "-m", "tfserving.server", *flags])

    def _start_real(self) -> None:
        grpc, rest = _free_ports(2)
        flags = [f"--port={grpc}", f"--rest_api_port={rest}", *self._flags]
        self._start([sys.executable, "-m", "cluster.model_servers.supervisor", str(self._settings.binary), *flags])
        self.grpc, self.rest = Address(HOST, grpc), Address(HOST, rest)

    def _start(self, command: Sequence[str]) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if not self._settings.binary else log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C reaches only this program, which then ends the server in order
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **self._settings.variables(), **os.environ},
            )
        self._stack.callback(self._end)

    def _await_ready(self) -> Mapping[str, Address]:
        """What the READY line says. A timer ends a server that never gets there, and with it the reading."""
        assert self._process.stdout is not None
        timer = threading.Timer(START, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                word, *rest = line.decode(errors="replace").split() or [""]
                if word == "READY":
                    return parse_ready(rest)
        finally:
            timer.cancel()
        self._process.wait()
        self.check()
        raise AssertionError("unreachable")

    def _await_models(self) -> None:
        with Client(self.grpc) as client:
            for model in self.models:
                try:
                    client.wait_available(model, START, self.check)
                except WireError as error:
                    raise ClusterDown(f"{self._settings.name} ({self.kind}): {error}{last_words(self._log)}") from error

    def _end(self) -> None:
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, none of them given out before: the real server takes no 0, and takes its time.

    Two servers on one port would share its calls, for the real one lets others have its port as well.
    """
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as held:
            held.bind((HOST, 0))
            port = held.getsockname()[1]
        if port not in _given:
            _given.add(port)
            ports.append(port)
    return ports


_given: set[int] = set()
"""Ports that this process has given out."""
