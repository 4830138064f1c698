"""The cost of a cut: seconds of a request and the busiest part of a pipeline, from a profile of devices and transports.

    seconds = sum of compute(stage, device) + calls of messages + bytes of messages + links

Rules:
  - A *cut* is a position in the graph's order: the index of the first operation of a group. Position 0 is the model's
    input. Neighbouring groups are on different hosts, in the order of `Placed.hosts`; the client sends the input.
  - A message is a call with its answer, as in samples: `MessageCost.call` covers both ways, `byte` one way. Each end
    does half of a message's work. The calls are nested: every answer carries the model's outputs.
  - A link delays a message in each direction, and carries one byte after the other (the arithmetic of `cluster.links`).
    It loses no packets and has no congestion control.
  - A host with a share of a core (`Device.share`) works at full speed until the share of a period is used up, then
    waits for the next period. A request may arrive at any moment of the period. A client that sends one request after
    the other cannot use more than the share on average.
  - Errors are half widths of 95 % intervals; errors of independent parts are added as squares.

Imports no TensorFlow and does no input or output. Seconds and bytes throughout; bits per second for bandwidths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from partitioning.graph import Graph
from partitioning.part_costs import CostError, Device, Estimate, MessageCost, Path, Runs, total
from partitioning.traffic import CLIENT, Traffic

Paths = Mapping[tuple[str, str], Path]
"""(source, target): names of hosts -> the link. Other pairs of hosts have no link."""
FREE = Path()


@dataclass(frozen=True)
class Placed:
    """Groups on hosts: group i, from `cuts[i - 1]` to `cuts[i]`, is on `hosts[i]`; messages go over `transport`."""

    hosts: tuple[str, ...]
    cuts: tuple[int, ...]
    transport: str


@dataclass(frozen=True)
class Trips:
    """What crosses the links, without their delays and bandwidths."""

    delays: int
    """Crossings, one way each."""
    nbytes: float
    """Bytes on all links, answers included."""
    most: float
    """Bytes on the busiest direction of a link."""


@dataclass(frozen=True)
class Prediction:
    """The cost of a placed cut."""

    seconds: Estimate
    """Seconds of a request that is alone in the system."""
    interval: float
    """Seconds between two answers of a pipeline that is kept full, set by its busiest host, client or link."""
    busiest: str
    compute: float
    """Seconds of work in the stages, at full speed."""
    messages: float
    """Seconds in messages, at both ends."""
    links: float
    sent: int
    """Bytes of the messages, without answers."""
    memory: Mapping[str, int]
    """Host -> bytes of its process."""
    trips: Trips
    at_ends: float
    """Seconds of a request without links."""
    least: float
    """Seconds that a request takes at least, because it uses up a host's share of a core."""
    occupied: float
    """Seconds for which a request occupies the busiest host or client."""

    def over(self, path: Path) -> tuple[float, float]:
        """(seconds, interval) if all links were like `path`."""
        links = self.trips.delays * path.delay + path.wire(self.trips.nbytes)
        return max(self.at_ends + links, self.least), max(self.occupied, path.wire(self.trips.most))


@dataclass(frozen=True)
class CostModel:
    """A graph at a batch size, with the costs of hosts and transports on it."""

    traffic: Traffic
    """The traffic of the graph at the batch size."""
    runs: Mapping[str, Runs]
    devices: Mapping[str, Device]
    transports: Mapping[str, MessageCost]
    paths: Paths
    client: str
    """The host of the client; empty: the client is on none of the hosts."""
    weights: Sequence[int] = ()
    """Bytes of the weights of each operation."""
    base: Mapping[str, int] = field(default_factory=dict)
    """Host -> bytes of a process without a model."""
    growth: Mapping[str, float] = field(default_factory=dict)
    """Host -> bytes of a process for each byte of weights."""
    think: float = 0.0
    """Seconds between an answer and the next request of the client."""

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The positions that the profiles of all hosts have."""
        found = [set(runs.positions) for runs in self.runs.values()]
        return tuple(sorted(set.intersection(*found))) if found else ()

    @property
    def graph(self) -> Graph:
        return self.traffic.graph

    @cached_property
    def bridges(self) -> tuple[int, ...]:
        """The positions between which the model is a chain."""
        return tuple(at for at in self.positions if self.traffic.is_bridge(at))

    def path(self, source: str, target: str) -> Path:
        return self.paths.get((source, target), FREE)

    def memory(self, host: str, first: int, last: int) -> int:
        """Bytes of the process that holds the operations `first..last-1`."""
        held = sum(self.weights[first:last])
        return round(self.base.get(host, 0) + self.growth.get(host, 1.0) * held)

    def predict(self, placed: Placed) -> Prediction:
        """The costs of a placed cut. Raises `CostError` for hosts, transports and cuts that the profile lacks."""
        self._check(placed)
        cost, names = self.transports[placed.transport], placed.hosts
        ends = [0, *placed.cuts, len(self.graph.operations)]
        stages = [self.runs[host].seconds(ends[at], ends[at + 1]) for at, host in enumerate(names)]
        work, client = [[stage] for stage in stages], list[Estimate]()
        wires: dict[tuple[str, str], float] = {}
        crossed = list[tuple[str, str]]()
        sent, carried = self.traffic.messages(placed.cuts), list[Estimate]()
        for (source, target), nbytes in sent.items():
            carried.append(cost.seconds(nbytes + self.traffic.answer))
            half = carried[-1].times(0.5)
            (client if source == CLIENT else work[source]).append(half)
            work[target].append(half)
            way = self.client if source == CLIENT else names[source], names[target]
            on_wire = nbytes * cost.density.get(ends[target], 1.0)
            for direction, size in ((way, on_wire), (way[::-1], float(self.traffic.answer))):
                if direction in self.paths:
                    wires[direction] = wires.get(direction, 0.0) + size
                    crossed.append(direction)
        links = sum(self.paths[way].delay for way in crossed)
        links += sum(self.paths[way].wire(size) for way, size in wires.items())
        loads = {host: total(parts) for host, parts in zip(names, work, strict=True)}
        alone, least = self._alone(loads, total(client)), self._least(loads)
        parts = {host: self.devices[host].busy(load.value) for host, load in loads.items()}
        parts |= {"the client": total(client).value}
        occupied = max(parts.values())
        parts |= {f"the link {way[0]}->{way[1]}": self.paths[way].wire(size) for way, size in wires.items()}
        busiest = max(parts, key=lambda name: parts[name])
        return Prediction(
            max(total((alone, Estimate(links))), least, key=lambda estimate: estimate.value),
            parts[busiest],
            busiest,
            compute=total(stages).value,
            messages=total(carried).value,
            links=links,
            sent=sum(sent.values()),
            memory={host: self.memory(host, ends[at], ends[at + 1]) for at, host in enumerate(names)},
            trips=Trips(len(crossed), sum(wires.values()), max(wires.values(), default=0.0)),
            at_ends=alone.value,
            least=least.value,
            occupied=occupied,
        )

    def _alone(self, loads: Mapping[str, Estimate], client: Estimate) -> Estimate:
        """Seconds of a request without its links. The error of a host's work grows in proportion to its seconds."""
        parts = [client]
        for host, load in loads.items():
            device = self.devices[host]
            value = device.elapsed(load.value)
            parts.append(Estimate(value, max(load.error, device.elapsed(load.high) - value)))
        return total(parts)

    def least(self, host: str, load: float) -> float:
        """Seconds that a request with `load` seconds of work on a host takes at least, because of the host's share."""
        share = self.devices[host].share
        return max(0.0, load / share - self.think) if share else 0.0

    def _least(self, loads: Mapping[str, Estimate]) -> Estimate:
        shares = {host: self.devices[host].share for host in loads}
        bounds = [
            Estimate(self.least(host, load.value), load.error / (shares[host] or 1)) for host, load in loads.items()
        ]
        return max(bounds, key=lambda estimate: estimate.value)

    def _check(self, placed: Placed) -> None:
        known = (("host", placed.hosts, self.runs), ("transport", (placed.transport,), self.transports))
        for what, names, valid in known:
            for name in names:
                if name not in valid:
                    raise CostError(f"the profile has no {what} {name!r}; it has {', '.join(valid)}")
        if len(placed.cuts) != len(placed.hosts) - 1 or len(set(placed.hosts)) < len(placed.hosts):
            hosts = "+".join(placed.hosts)
            raise CostError(f"{len(placed.cuts)} cuts for the hosts {hosts}; give one fewer, and each host once")
