"""Hosts to test on: network namespaces with SSH servers, and a client in a namespace of its own (`tools.hosts`)."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from cluster.hosts import Host
from cluster.launchers import ssh as over_ssh
from cluster.launchers.pipe import Way
from cluster.launchers.piped import PipedLauncher
from cluster.scratch import SHORT
from tests.running import assert_gone
from tools.hosts import Network, missing, network, sshd
from tools.hosts.ssh import PORT as SSH_PORT

needs_ssh = pytest.mark.skipif(bool(missing(ssh=True)), reason=missing(ssh=True))

Result = TypeVar("Result")

CLIENT = "desk"
"""The host on which runs are started; it has no SSH server."""
ADDRESSES = {"edge": "10.77.0.2", "cloud": "10.77.0.3", CLIENT: "10.77.0.4"}
SERVERS = ("edge", "cloud")

NOWHERE = "10.77.0.99"
"""An address that no host has."""


@dataclass(frozen=True)
class Lab:
    """The hosts, the ssh_config for the hosts that have an SSH server, and a folder for files."""

    net: Network
    config: Path
    folder: Path

    @property
    def ssh(self) -> str:
        """The command that starts ssh on the client's host, wherever the command itself is run."""
        return shlex.join(self.net.command(CLIENT, ["ssh", "-F", str(self.config)]))

    @property
    def client(self) -> list[str]:
        """The prefix that makes a command run on the client's host."""
        return self.net.command(CLIENT, [])

    @property
    def python(self) -> str:
        """The path of the hosts' Python, which caches its files in `cache` and not among the user's own files."""
        return str(self.folder / "python")

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "splitbench" / "contents"

    def script(self, name: str, lines: str) -> str:
        """Write a program for `sh`, and return its path."""
        (path := self.folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return str(path)

    def other_version(self) -> str:
        """The path of a Python that finds the metadata of another version of this package."""
        (info := self.folder / "splitbench-9.9.dist-info").mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: splitbench\nVersion: 9.9\n")
        folder, python = shlex.quote(str(self.folder)), shlex.quote(self.python)
        return self.script("other-python", f'PYTHONPATH={folder} exec {python} "$@"')

    def hosts(self) -> list[Host]:
        return [Host(name=name, address=ADDRESSES[name], python=self.python) for name in SERVERS]

    def ways(self, silence: float = over_ssh.SILENCE) -> dict[str, Way]:
        return {host.name: over_ssh.way(host, self.ssh, silence) for host in self.hosts()}

    def flags(self, *tables: Mapping[str, object]) -> list[str]:
        """The flags of a run over the hosts in `tables`; without tables, over both hosts, with one server on each."""
        given = tables or (self.table("edge", servers=[0]), self.table("cloud", servers=[1]))
        (path := self.folder / "hosts.toml").write_text("".join(map(_table, given)))
        return ["--cluster", "ssh", "--hosts", str(path), "--ssh", f"ssh -F {shlex.quote(str(self.config))}"]

    def table(self, name: str, **fields: object) -> dict[str, object]:
        """A host, as a table of the file of hosts."""
        return {"name": name, "address": ADDRESSES.get(name, NOWHERE), "python": self.python} | fields

    def strangers(self, name: str) -> list[psutil.Process]:
        """The processes of a host that do not belong to its SSH server."""
        found = []
        for pid in self.net.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):  # the process has just ended
                process = psutil.Process(pid)
                if not process.name().startswith("sshd"):
                    found.append(process)
        return found

    def remote(self) -> list[psutil.Process]:
        """The processes of a run on all hosts but the client's."""
        return [process for name in SERVERS for process in self.strangers(name)]

    def assert_nothing_left(self, processes: Iterable[psutil.Process]) -> None:
        """Assert that `processes` and all others on the hosts have ended and have left no folder and no port."""
        gone = [*processes]
        assert_gone([*gone, *self.remote()])
        assert not self.remote()
        assert [path for process in gone for path in SHORT.glob(f"splitbench-{process.pid}-*")] == []
        for name in SERVERS:
            assert self.ports(name) == []

    def ports(self, name: str) -> list[int]:
        """The ports on which processes of a host listen, except the port of its SSH server."""
        done = self.net.run(
            name, ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        found = {int(row[1].rpartition(":")[2], 16) for row in rows if row[3:4] == ["0A"]}
        return sorted(found - {SSH_PORT})


def _table(fields: Mapping[str, object]) -> str:
    return "[[host]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in fields.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


@contextmanager
def lab() -> Iterator[Lab]:
    """Hosts that exist until the end of the block. The path of their Python contains a space."""
    with tempfile.TemporaryDirectory(prefix="a lab ") as text, network(ADDRESSES) as net:
        folder = Path(text)
        with sshd(net, SERVERS, folder) as config:
            made = Lab(net, config, folder)
            cache = shlex.quote(str(folder / "cache"))
            made.script("python", f'XDG_CACHE_HOME={cache} exec {shlex.quote(sys.executable)} "$@"')
            yield made


class _EnoughError(Exception):
    """Ends a launcher before its hosts load TensorFlow."""


def before_tensorflow(launcher: PipedLauncher, body: Callable[[], Result]) -> Result:
    """Call `body` after the launcher has connected and before the hosts load TensorFlow; then end the launcher."""
    found: list[Result] = []

    def act() -> None:
        found.append(body())
        raise _EnoughError

    launcher.check_first = act
    with contextlib.suppress(_EnoughError), launcher:
        pass
    return found[0]
