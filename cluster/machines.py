"""The machines of an experiment, started: this one, hosts over ssh, or a Ray cluster.

Before a host loads TensorFlow its versions are compared with those here, and every way between two machines is
measured, so that an unusable host is named before anything else is done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

import transports
from cluster import facts, probe
from cluster.config import ProbeConfig
from cluster.errors import ClusterDown
from cluster.hosts import CLIENT, HERE, Host
from cluster.identity import NOBODY, Identity, throwaway
from cluster.launchers import Launcher, LocalLauncher, Order
from cluster.launchers.piped import PipedLauncher
from cluster.probe import Way
from transports.errors import UsageError, WireError

SAME = ("python", "tensorflow", "keras", "splitbench", "code")
"""Versions that have to be the same on every host; of Python the first two numbers."""
CHANGE = 0.2
"""Share by which a way may change during a run, without a warning."""
RTT_NOISE, MEASURED_BANDWIDTH = 2e-4, 2e9
"""Seconds of a round trip below which a change is noise, and bits per second up to which the probe is not the limit."""
SHAPED = "SPLITBENCH_SHAPED"
"""The variable with which whoever shapes links by the kernel says so (`tools.hosts`)."""
Ways = Mapping[tuple[str, str], Way]
"""(source, target) -> the measured way; the machine of the run is `client`."""


@dataclass(frozen=True)
class Settings:
    """What is asked."""

    cluster: str = "local"
    """local, ssh, or ray[:HOST:PORT]."""
    hosts: tuple[Host, ...] = ()
    ssh: str = "ssh"
    versions: str = "same"
    transports: tuple[str, ...] = ()
    """Those between processes."""
    address: str = "127.0.0.1"
    """Where processes listen, without hosts; with hosts, where this process does (127.0.0.1: found out)."""
    identity: Identity | None = None
    """None: made for this experiment, if there are several machines."""
    insecure: bool = False

    @property
    def remote(self) -> bool:
        """Whether processes run on other machines."""
        return self.cluster != "local"


@dataclass(frozen=True)
class Machines:
    """The machines, ready for orders."""

    settings: Settings
    launcher: Launcher | None
    """None if no process is needed."""
    hosts: tuple[Host, ...]
    """With their addresses."""
    identity: Identity
    address: str
    """Where this process listens."""
    folder: str = ""
    """The folder of the identity's files on this machine."""
    ways: dict[str, Ways] = field(default_factory=dict)
    """`before` and `after` the run."""

    def options(self, names: Sequence[str]) -> dict[str, str]:
        """The options of this process's ends of the transports `names` (NAME.KEY -> value)."""
        return self.identity.options(names, self.folder)

    def measure_again(self) -> str:
        """Measure every way again; returns a warning if one has changed, else an empty text. Raises `ClusterDown`."""
        if not self.settings.remote:
            return ""
        self.ways["after"] = _ways(self)
        return changed(self.ways["before"], self.ways["after"])

    def record(self) -> dict[str, Any]:
        """What a result says of the machines: each host with its facts, its versions and its clock, and the ways."""
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
    """Start a launcher for the machines; `needed`: whether any process will run.

    Raises `UsageError` for a host that cannot be used, which it names.
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
            address = source_address(hosts[0].address) if settings.address == "127.0.0.1" else settings.address
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            identity = _identity(settings, [address, *(host.address for host in hosts)])
            identity.write(Path(folder))
            piped = PipedLauncher(paths)
            machines = Machines(settings, piped, hosts, identity, address, folder)
            piped.check_first = lambda: _check(machines)
            stack.enter_context(piped)
        except ClusterDown as error:
            raise UsageError(str(error)) from error
        yield machines


def source_address(target: str) -> str:
    """The address of this machine from which it reaches `target`. Raises `UsageError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(address)  # sends nothing
            return str(sock.getsockname()[0])
    except OSError as error:
        raise UsageError(f"{target!r} cannot be reached from here: {error}; give `address` of the host") from None


def changed(before: Ways, after: Ways) -> str:
    """A warning that names the ways that have changed by more than `CHANGE`; empty if none has."""
    found = []
    for (source, target), way in before.items():
        now, ends = after[source, target], f"from {source} to {target}"
        if abs(now.rtt - way.rtt) > max(CHANGE * way.rtt, RTT_NOISE):
            found.append(f"round trip {ends} {way.rtt * 1e3:.3g} ms, then {now.rtt * 1e3:.3g} ms")
        slower = min(way.bandwidth, now.bandwidth)
        if slower < MEASURED_BANDWIDTH and abs(now.bandwidth / way.bandwidth - 1) > CHANGE:
            rates = f"{way.bandwidth / 1e6:.3g} Mbit/s, then {now.bandwidth / 1e6:.3g} Mbit/s"
            found.append(f"bandwidth {ends} {rates}")
    return f"the links have changed during the run: {'; '.join(found)}" if found else ""


def differences(versions: Mapping[str, str | None]) -> list[str]:
    """What differs between the versions of a host and those here."""
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
    """Compare the versions, and measure every way. Raises `ClusterDown` and `UsageError`."""
    assert machines.launcher is not None
    for name, hello in machines.launcher.hosts.items():
        found = differences(hello.versions)
        if found and machines.settings.versions == "same":
            raise UsageError(
                f"host {name} has {', '.join(found)}; install the same there, or measure and record it: --versions any"
            )
    machines.ways["before"] = _ways(machines)


def _ways(machines: Machines) -> Ways:
    """Every way between two machines. Raises `Unreachable` for one that does not exist."""
    launcher, hosts = machines.launcher, machines.hosts
    assert launcher is not None
    names = {host.name: f"probe-{host.name}" for host in hosts}
    own = transports.make(probe.TRANSPORT, machines.options([probe.TRANSPORT]))
    found: dict[tuple[str, str], Way] = {}
    try:
        for host in hosts:
            launcher.start(_probe_order(machines, launcher, host, names[host.name]))
        at = {host: launcher.addresses(name)[probe.TRANSPORT] for host, name in names.items()}
        for source, target in itertools.permutations((CLIENT, *names), 2):
            if target == CLIENT:
                continue
            try:
                if source == CLIENT:
                    found[source, target] = probe.measure(own, at[target])
                else:
                    found[source, target] = probe.ask(own, at[source], at[target])
            except WireError as error:
                raise probe.unreachable(_title(source), _title(target), at[target], error) from error
    finally:
        launcher.stop(list(names.values()))
    return found


def _title(name: str) -> str:
    return "this machine" if name == CLIENT else f"host {name}"


def _probe_order(machines: Machines, launcher: Launcher, host: Host, name: str) -> Order:
    config = ProbeConfig(
        bind=host.bind or host.address,
        advertise=host.address,
        port=host.port,
        transports=(probe.TRANSPORT,),
        options=machines.identity.installed(launcher, host.name, [probe.TRANSPORT]),
        insecure=machines.settings.insecure,
    )
    return Order(name, config, host=host.name, title=f"host {host.name}: its probe")
