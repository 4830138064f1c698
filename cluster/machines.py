"""The machines of an experiment, started: this one, hosts over ssh, or a Ray cluster.

Before a host loads TensorFlow, its versions are compared with the versions here, and the network path between every two
machines is measured, so that an unusable host is reported before anything else is done.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cluster import facts, probe
from cluster.errors import ClusterDown
from cluster.hosts import HERE, SHAPED, Host
from cluster.identity import NOBODY, Identity, throwaway
from cluster.launchers import Launcher, LocalLauncher
from cluster.launchers.piped import PipedLauncher
from cluster.survey import Survey, Ways, changed
from transports.errors import UsageError

SAME = ("python", "tensorflow", "keras", "splitbench", "code")
"""Versions that have to be the same on every host; for Python, the first two numbers only."""


@dataclass(frozen=True)
class Settings:
    """The machines that the user asks for."""

    cluster: str = "local"
    """The kind of cluster: local, ssh, or ray[:HOST:PORT]."""
    hosts: tuple[Host, ...] = ()
    ssh: str = "ssh"
    versions: str = "same"
    transports: tuple[str, ...] = ()
    """Names of the transports between processes."""
    address: str = "127.0.0.1"
    """Without hosts: where processes listen. With hosts: where this process listens (127.0.0.1: found at the start)."""
    identity: Identity | None = None
    """None: if there are several machines, an identity is made for this experiment."""
    insecure: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    """Host -> the number of ports that its processes will take."""

    @property
    def remote(self) -> bool:
        """Whether processes run on other machines."""
        return self.cluster != "local"


@dataclass(frozen=True)
class Machines:
    """The machines of an experiment, ready to start processes."""

    settings: Settings
    launcher: Launcher | None
    """None if no process is needed."""
    hosts: tuple[Host, ...]
    """The hosts, with their addresses."""
    identity: Identity
    address: str
    """The address at which this process listens."""
    folder: str = ""
    """The folder of the identity's files on this machine."""
    ways: dict[str, Ways] = field(default_factory=dict)
    """The measured network paths, `before` and `after` the run."""

    def options(self, names: Sequence[str]) -> dict[str, str]:
        """The options for this process's end of each of the transports `names` (NAME.KEY -> value)."""
        return self.identity.options(names, self.folder)

    def survey(self) -> Survey:
        """A survey that tests which addresses and limits the hosts support."""
        assert self.launcher is not None
        own = self.options([probe.TRANSPORT])
        return Survey(self.launcher, self.hosts, self.identity, own, self.settings.insecure, self.settings.ports)

    def measure_again(self) -> str:
        """Measure every network path again; returns a warning if one has changed, else "". Raises `ClusterDown`."""
        if not self.settings.remote:
            return ""
        self.ways["after"] = self.survey().ways()
        return changed(self.ways["before"], self.ways["after"])

    def record(self) -> dict[str, Any]:
        """The record for a result: the facts, versions and clock of each host, and the network paths."""
        if not self.settings.hosts or self.launcher is None:
            return {}
        hosts = {host.name: host.record() for host in self.hosts}
        if self.settings.remote:
            for name, hello in self.launcher.hosts.items():
                clock = self.launcher.clock(name)
                hosts[name] |= hello.facts | {
                    "versions": hello.versions,
                    "clock_offset": clock.offset,
                    "clock_uncertainty": clock.uncertainty,
                }
        ways = {
            when: [{"from": source, "to": target, **way.record()} for (source, target), way in found.items()]
            for when, found in self.ways.items()
        }
        shaped = {"shaped": os.environ[SHAPED]} if os.environ.get(SHAPED) else {}
        return {"cluster": self.settings.cluster.partition(":")[0], "hosts": hosts, "ways": ways, **shaped}


NONE = Machines(Settings(), None, (HERE,), NOBODY, Settings.address)
"""This machine, without a launcher."""


@contextlib.contextmanager
def started(settings: Settings, needed: bool, notify: Callable[[str], None]) -> Iterator[Machines]:
    """Start a launcher for the machines. `needed`: whether the experiment starts any process.

    Raises `UsageError`, which names the host, if a host cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if not settings.remote or not needed:
            given = settings.hosts or (replace(HERE, address=""),)
            hosts = tuple(replace(host, address=host.address or settings.address) for host in given)
            launcher = stack.enter_context(LocalLauncher()) if needed else None
            yield Machines(settings, launcher, hosts, NOBODY, settings.address)
            return
        from cluster.launchers.remote import ways_to

        notify(f"connecting to {', '.join(host.name for host in settings.hosts)}")
        try:
            paths, hosts = ways_to(settings.cluster, settings.hosts, settings.ssh)
            address = source_address(hosts[0]) if settings.address == "127.0.0.1" else settings.address
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            identity = _identity(settings, [address, *(host.address for host in hosts)])
            identity.write(Path(folder))
            piped = PipedLauncher(paths, notify)
            machines = Machines(settings, piped, hosts, identity, address, folder)
            piped.check_first = lambda: _check(machines)
            stack.enter_context(piped)
        except ClusterDown as error:
            raise UsageError(str(error)) from error
        yield machines


def source_address(host: Host) -> str:
    """The address of this machine from which it reaches `host`. Raises `UsageError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(address)  # sends nothing
            return str(sock.getsockname()[0])
    except OSError as error:
        raise UsageError(
            f"host {host.name}: {host.address!r} cannot be reached from here: {error}; give its `address`"
        ) from None


def differences(versions: Mapping[str, str | None]) -> list[str]:
    """The differences between the versions of a host and the versions here, as texts."""
    here = {**facts.versions(), "code": facts.code()}
    found = []
    for name in SAME:
        own, other = here.get(name), versions.get(name)
        if name == "python" and own and other:
            own, other = (".".join(version.split(".")[:2]) for version in (own, other))
        if own != other:
            found.append(f"{name} {other or 'is missing'} (here {own})")
    return found


def _identity(settings: Settings, addresses: Sequence[str]) -> Identity:
    if settings.identity is not None:
        return settings.identity
    return NOBODY if settings.insecure else throwaway([probe.TRANSPORT, *settings.transports], addresses)


def _check(machines: Machines) -> None:
    """Compare versions, test the limits, and measure every network path. Raises `ClusterDown` and `UsageError`."""
    assert machines.launcher is not None
    for name, hello in machines.launcher.hosts.items():
        found = differences(hello.versions)
        if found and machines.settings.versions == "same":
            raise UsageError(
                f"host {name} has {', '.join(found)}; install the same there, or measure and record it: --versions any"
            )
    survey = machines.survey()
    survey.limits()
    survey.ports()
    machines.ways["before"] = survey.ways()
