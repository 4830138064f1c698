"""Starts the processes of a cluster, watches over them, and ends them whatever happens.

The registry and every node are real processes of their own session: a Ctrl-C in the terminal reaches only the program
that started them, which then ends them in order. When that program dies, they end themselves (`cluster.fork_server`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterDown
from cluster.fork_server import GRACE
from cluster.manifest import seal
from transports.address import Address
from transports.process import parse_ready

START = 300.0
"""Seconds until every process has to be ready: loading a large model on a slow disk takes minutes."""
HINDSIGHT = 5.0
"""Seconds until the end of a process is known, at the most, after its peers have seen their connections close."""


class LocalLauncher:
    """Starts processes that have TensorFlow loaded, and knows of each whether it is ready, or how it ended.

    A context manager; on exit every process is gone. Entering returns at once: TensorFlow loads meanwhile.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._started = False
        self._news = threading.Condition()
        self._ended: dict[str, int] = {}
        self._meant: set[str] = set()
        """Whose end is wanted, and is no failure."""
        self._ready: dict[str, Mapping[str, Address]] = {}
        self.pids: dict[str, int] = {}
        """Process id by name, of those that run."""

    def __enter__(self) -> LocalLauncher:
        self._logs = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="splitbench-logs-")))
        with self._log("launcher").open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cluster.fork_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not self._started:  # it may still be loading TensorFlow, and would look at its input only then
            self._process.terminate()
        try:
            self._process.wait(3 * GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._stack.close()

    def start(self, name: str, arguments: Sequence[str], module: str = "cluster.process") -> None:
        """Start `python -m MODULE ARGUMENTS` under `name`. It has a `main` that takes `argv` and `announce`."""
        self._started = True
        order = {"name": name, "module": module, "arguments": list(arguments), "log": str(self._log(name))}
        assert self._process.stdin is not None
        with self._news:
            self._ended.pop(name, None)
            self._ready.pop(name, None)
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._reader.join()
            self.check()

    def stop(self, names: Sequence[str]) -> None:
        """End the processes `names` and forget them. Returns when all are gone."""
        self._signal(names, signal.SIGTERM)
        self.kill(names)

    def kill(self, names: Sequence[str]) -> None:
        """Kill those of `names` that run, and forget them. Returns when all are gone."""
        self._signal(names, signal.SIGKILL)
        with self._news:
            self._meant -= set(names)
            for name in names:
                self._ended.pop(name, None)

    def _signal(self, names: Sequence[str], number: signal.Signals) -> None:
        """Send it to those of `names` that run, and wait until they end, for a while."""
        with self._news:
            self._meant |= set(names)
            for name in names:
                if name in self.pids:
                    with contextlib.suppress(ProcessLookupError):  # where nobody is left to say that it has ended
                        os.kill(self.pids[name], number)
            self._news.wait_for(lambda: self._all_gone(names), GRACE)

    def addresses(self, name: str) -> Mapping[str, Address]:
        """Where `name` listens, once it is ready. Raises `ClusterDown` where a process ends before that."""
        with self._news:
            if not self._news.wait_for(lambda: name in self._ready or self._ended, START):
                raise ClusterDown(f"{name} is not ready after {START:.0f} s")
            if name not in self._ready:
                self._raise_ended()
            return self._ready[name]

    def check(self, patience: float = 0.0) -> None:
        """Raise `ClusterDown` if a process has ended, or ends within `patience` seconds."""
        with self._news:
            self._news.wait_for(lambda: self._ended, patience)
            self._raise_ended()

    def _all_gone(self, names: Sequence[str]) -> bool:
        return "launcher" in self._ended or not any(name in self.pids for name in names)

    def _raise_ended(self) -> None:
        for name, status in self._ended.items():
            raise ClusterDown(f"{name} {_ending(status)}{last_words(self._log(name))}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                name, word, *rest = [*line.split(), "", ""]
                with self._news:
                    self._hear(name, word, rest)
                    self._news.notify_all()
        with self._news:
            self._ended.setdefault("launcher", self._process.wait())
            self._news.notify_all()

    def _hear(self, name: str, word: str, rest: Sequence[str]) -> None:
        """Any other line is what some library printed."""
        if word == "PID":
            self.pids[name] = int(rest[0])
        elif word == "READY":
            self._ready[name] = parse_ready(filter(None, rest))
        elif word == "EXIT":
            self.pids.pop(name, None)
            if name not in self._meant:
                self._ended[name] = int(rest[0])

    def _log(self, name: str) -> Path:
        return self._logs / name


@dataclass(frozen=True)
class Settings:
    """What every process of a cluster is started with."""

    transports: tuple[str, ...]
    servers: int
    exports: Path
    workers: int
    threads: int = 0
    malloc: str = "keep"
    options: tuple[str, ...] = ()
    replicas: int = 1
    """Nodes for each portion of the model."""
    lease: float = 10.0
    """Seconds until a node that is gone is absent from the registry."""
    model_servers: tuple[Mapping[str, Address], ...] = ()
    """By server: where the stages are executed of engines that call one."""
    host: str = "127.0.0.1"
    insecure: bool = False
    """Whether `host` may be an address beyond this machine without TLS."""


class Cluster:
    """A registry and `settings.replicas` nodes for each server of the placement, born in `launcher`, all of them ready.

    `node-<i>` holds the portion of server `i`; the second node with that portion is `node-<i + servers>`, and so on.
    Raises `ClusterDown` where a process ends before it is ready, with its name and its last words.
    """

    def __init__(
        self, settings: Settings, launcher: LocalLauncher, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._digest = seal(settings.exports)
        self.nodes = [f"node-{number}" for number in range(settings.servers * settings.replicas)]
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._start_registry()
            self.registries = launcher.addresses("registry")
            for name in self.nodes:
                self._start_node(name)
            self.wait_ready(notify)
            undo.pop_all()

    def wait_ready(self, notify: Callable[[str], None] = lambda text: None) -> None:
        """Return once every node is. Raises `ClusterDown` where one ends before that."""
        for name in self.nodes:
            self._launcher.addresses(name)
            notify(f"{name} ready")

    def close(self) -> None:
        """End its processes; the launcher is there for the next cluster."""
        self._launcher.stop([*self.nodes, "registry"])

    def check(self, patience: float = HINDSIGHT) -> None:
        """Raise `ClusterDown` if a process has ended, or ends within `patience` seconds: to be asked once a request
        has failed."""
        self._launcher.check(patience)

    def replace(self, name: str) -> None:
        """Kill the node `name`, and start another in its place, which takes the portion when that is free again.

        Returns at once: the new node has to load its portion, and the registry to find the old one absent.
        """
        self._launcher.kill([name])
        self._start_node(name)

    def _start_registry(self) -> None:
        settings = self._settings
        # One question at a time of each node and of the client, and room for several clients.
        workers = 2 * settings.servers * settings.replicas + 8
        arguments = ["--servers", str(settings.servers), "--replicas", str(settings.replicas)]
        self._start("registry", "registry", *arguments, "--lease", str(settings.lease), "--workers", str(workers))

    def _start_node(self, name: str) -> None:
        settings = self._settings
        portion = self.nodes.index(name) % settings.servers
        arguments = ["--portion", str(portion), "--patience", str(2 * settings.lease)]
        arguments += ["--exports", str(settings.exports), "--digest", self._digest]
        arguments += ["--threads", str(settings.threads), "--malloc", settings.malloc]
        for server in settings.model_servers:
            arguments += ["--model-server", ",".join(f"{name}={address}" for name, address in server.items())]
        registries = [f"{transport}={address}" for transport, address in self.registries.items()]
        self._start(name, "node", *arguments, "--workers", str(settings.workers), "--registry", *registries)

    def _start(self, name: str, *arguments: str) -> None:
        options = [word for option in self._settings.options for word in ("--option", option)]
        where = ["--transport", ",".join(self._settings.transports), "--host", self._settings.host]
        insecure = ["--insecure"] if self._settings.insecure else []
        self._launcher.start(name, [*arguments, *where, *insecure, *options])


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def last_words(log: Path) -> str:
    """The last line of a process's log, as the end of a sentence; empty where there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
