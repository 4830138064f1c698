"""Tests which addresses the hosts of an experiment can reach, and which limits they can impose, by probe processes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

import transports
from cluster import probe
from cluster.config import ProbeConfig
from cluster.errors import ClusterDown
from cluster.hosts import CLIENT, Host
from cluster.identity import Identity
from cluster.launchers import Launcher, Order
from cluster.probe import Way
from transports.address import Address
from transports.errors import WireError

CHANGE = 0.2
"""Share by which a network path may change during a run without a warning."""
RTT_NOISE, MEASURED_BANDWIDTH = 2e-4, 2e9
"""Round trip in seconds below which changes are noise; bits per second up to which the probe is no bottleneck."""
Ways = Mapping[tuple[str, str], Way]
"""(source, target) -> the measured network path; `client` is the machine on which the run was started."""


@dataclass(frozen=True)
class Survey:
    """Runs probes on `hosts`, whose addresses are known, and on this machine. Each method ends the probes it starts."""

    launcher: Launcher
    hosts: Sequence[Host]
    identity: Identity
    options: Mapping[str, str]
    """The options of transports for this process's end (NAME.KEY -> value)."""
    insecure: bool
    needed: Mapping[str, int] = field(default_factory=dict)
    """Host -> the number of ports that its processes will take."""

    def limits(self) -> None:
        """Test that each host with limits can impose them: start a process there with these limits.

        Raises `ClusterDown`, which names the host.
        """
        limited = [host for host in self.hosts if host.cores or host.cpu or host.memory]
        orders = []
        for host in limited:
            order = self._order(host, 1)
            config = replace(order.config, port=0, cores=host.cores, cpu=host.cpu, memory=host.memory)
            orders += [dataclasses.replace(order, config=config, title=f"host {host.name}: a process with its limits")]
        with self._running(orders):
            pass

    def ports(self) -> None:
        """Test that every port of the hosts that prescribe ports (`port`) is free, and reachable from each machine.

        Raises `Unreachable`, or `ClusterDown` for a port that is not free.
        """
        prescribed = [host for host in self.hosts if host.port]
        orders = [self._order(host, self.needed.get(host.name, 1) if host.port else 1) for host in self.hosts]
        with self._running(orders if prescribed else []) as found:
            for host in prescribed:
                for source in (CLIENT, *(other.name for other in self.hosts if other is not host)):
                    for address in found[host.name].values():
                        self._reach(source, host.name, address, found)

    def ways(self) -> Ways:
        """Measure the path between every two machines. Raises `Unreachable` if one cannot reach the other."""
        own = transports.make(probe.TRANSPORT, self.options)
        made: dict[tuple[str, str], Way] = {}
        with self._running([self._order(host, 1) for host in self.hosts]) as found:
            at = {name: addresses[probe.TRANSPORT] for name, addresses in found.items()}
            for source, target in itertools.permutations((CLIENT, *at), 2):
                if target == CLIENT:
                    continue
                try:
                    if source == CLIENT:
                        made[source, target] = probe.measure(own, at[target])
                    else:
                        made[source, target] = probe.ask(own, at[source], at[target])
                except WireError as error:
                    raise probe.unreachable(_title(source), _title(target), at[target], error) from error
        return made

    def _reach(self, source: str, target: str, address: Address, found: Mapping[str, Mapping[str, Address]]) -> None:
        own = transports.make(probe.TRANSPORT, self.options)
        try:
            if source == CLIENT:
                probe.reach(own, address)
            else:
                probe.ask_reach(own, found[source][probe.TRANSPORT], address)
        except WireError as error:
            raise probe.unreachable(_title(source), _title(target), address, error) from error

    @contextmanager
    def _running(self, orders: Sequence[Order]) -> Iterator[Mapping[str, Mapping[str, Address]]]:
        """Host -> the addresses of its probe, within the block. Raises `ClusterDown` if one ends before it is ready."""
        try:
            for order in orders:
                self.launcher.start(order)
            try:
                yield {order.host: self.launcher.addresses(order.name) for order in orders}
            except probe.Unreachable:
                raise
            except ClusterDown as error:
                raise ClusterDown(f"{error}{_remedy(str(error))}") from error
        finally:
            self.launcher.stop([order.name for order in orders])

    def _order(self, host: Host, ports: int) -> Order:
        config = ProbeConfig(
            bind=host.bind or host.address,
            advertise=host.address,
            port=host.port,
            transports=(probe.TRANSPORT,),
            options=self.identity.installed(self.launcher, host.name, [probe.TRANSPORT]),
            insecure=self.insecure,
            ports=ports,
        )
        return Order(f"probe-{host.name}", config, host=host.name, title=f"host {host.name}: its probe")


def changed(before: Ways, after: Ways) -> str:
    """A warning that names the network paths that have changed by more than `CHANGE`; empty if none has."""
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


def _title(name: str) -> str:
    return "this machine" if name == CLIENT else f"host {name}"


def _remedy(failure: str) -> str:
    return "; give an `address` or `bind` that the host has, and a free `port`" if "cannot bind" in failure else ""
