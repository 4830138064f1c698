"""Which cut, on which hosts, over which transport: the candidates of a cost model in the order of a goal.

  - With one or two servers, every combination of profiled position, order of hosts and transport is predicted: the
    ranking is exact.
  - With more servers, dynamic programming runs over the positions where a single tensor crosses (`CostModel.bridges`).
    Between them the model is a chain. The ranking is exact among cuts at these positions. `Advice.bound` is a lower
    bound of the best value over all profiled positions: it assumes that a group takes its tensors in one message, from
    the nearest host that may have them.
  - Positions are those of the graph's order. Groups of operations that are not neighbours in it are not considered.

A label of the dynamic programming has two costs: a sum over the groups, such as the seconds of a request, and a maximum
over the groups, such as the interval of a pipeline. A label is dropped once `top` others are at least as good in both,
so that the `top` best candidates survive. Imports no TensorFlow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from partitioning.cost_model import CostModel, Placed, Prediction
from partitioning.part_costs import CostError

GOALS = ("latency", "throughput")
Cost = Callable[[int, int, int], tuple[float, float] | None]
"""(number of the group, first operation, end) -> (cost to add up, cost of which the largest counts), or None if the
group must not be on its host."""
Label = tuple[float, float, tuple[int, ...]]
"""Sum, largest, and the ends of the groups."""


@dataclass(frozen=True)
class Question:
    """The goal and the constraints of an advice."""

    goal: str = "latency"
    servers: int = 2
    """Groups, at most."""
    least: int = 1
    """Groups, at least."""
    keep_first: int = 0
    """Operations that have to run on the host of the client."""
    deadline: float = 0.0
    """Seconds that a request may take; 0: any."""
    top: int = 10
    orders: tuple[tuple[str, ...], ...] = ()
    """Orders of hosts to consider; empty: all orders."""


@dataclass(frozen=True)
class Candidate:
    """A placed cut and its costs."""

    placed: Placed
    cost: Prediction

    def value(self, goal: str) -> tuple[float, float]:
        """The value to minimise for `goal`, then the value of the other goal."""
        pair = (self.cost.seconds.value, self.cost.interval)
        return pair if goal == GOALS[0] else pair[::-1]


@dataclass(frozen=True)
class Advice:
    """The best candidates that meet the constraints, best first, and the pool from which they were chosen."""

    ranked: tuple[Candidate, ...]
    pool: tuple[Candidate, ...]
    """Every candidate that was predicted and meets the constraints, best first."""
    bound: float
    """A lower bound of the goal's value over all profiled positions."""

    @property
    def best(self) -> Candidate:
        return self.ranked[0]


def advise(model: CostModel, question: Question) -> Advice:
    """The advice. Raises `CostError` where the constraints contradict each other, or no candidate meets them."""
    check(model, question)
    found = [Candidate(placed, model.predict(placed)) for placed in candidates(model, question)]
    fitting = [item for item in found if _fits(model, item, question)]
    if not fitting:
        raise CostError(_unmet(model, found, question))
    pool = sorted(fitting, key=lambda item: (*item.value(question.goal), item.placed.hosts, item.placed.cuts))
    best = pool[0].value(question.goal)[0]
    bound = min([best, *(_bound(model, question, order, name) for order, name in _long(model, question))])
    return Advice(tuple(pool[: question.top]), tuple(pool), bound)


def check(model: CostModel, question: Question) -> None:
    """Raise `CostError` for constraints that contradict each other or the model."""
    operations = len(model.graph.operations)
    if question.keep_first and model.client not in model.devices:
        raise CostError("the first operations stay where the client is, and no host says so; set client = true on one")
    if question.keep_first > operations:
        raise CostError(f"{question.keep_first} operations stay, and the model has {operations}; give at most as many")
    if question.least > 1 and operations < question.least:
        raise CostError(f"a model of {operations} operations has no cut into {question.least} groups")
    if question.least > 1 and len(model.positions) < question.least - 1:
        raise CostError(f"the profile has {len(model.positions)} positions; {question.least} groups need more")
    if question.least > len(model.devices):
        raise CostError(f"{question.least} groups need as many hosts; there are {len(model.devices)}")


def candidates(model: CostModel, question: Question) -> Iterator[Placed]:
    """Every placed cut to predict."""
    ends = [(), *((position,) for position in model.positions)]
    for order in orders(model, question):
        for name in model.transports:
            if len(order) <= 2:
                yield from (Placed(order, cuts, name) for cuts in ends if len(cuts) == len(order) - 1)
            else:
                cost = _chain_cost(model, question, order, name)
                for cuts in chains((*model.bridges, len(model.graph.operations)), len(order), cost, question.top):
                    yield Placed(order, cuts, name)


def orders(model: CostModel, question: Question) -> tuple[tuple[str, ...], ...]:
    """The orders of hosts to consider. The question limits their number of hosts, one for each group."""
    if question.orders:
        return question.orders
    most = min(question.servers, len(model.devices))
    counts = range(question.least, most + 1)
    return tuple(order for count in counts for order in itertools.permutations(model.devices, count))


def chains(ends: Sequence[int], groups: int, cost: Cost, top: int = 1) -> list[tuple[int, ...]]:
    """The cuts of chains with `groups` groups that may be the `top` best for any increasing function of both costs.

    `ends`: the possible ends of a group, ascending; the last one ends the chain.
    """
    layer: dict[int, list[Label]] = {0: [(0.0, 0.0, ())]}
    for number in range(groups):
        after: dict[int, list[Label]] = {}
        for start, labels in layer.items():
            for end in ends[-1:] if number == groups - 1 else [end for end in ends[:-1] if end > start]:
                if (added := cost(number, start, end)) is not None:
                    after.setdefault(end, []).extend(
                        (label[0] + added[0], max(label[1], added[1]), (*label[2], end)) for label in labels
                    )
        layer = {end: _kept(labels, top) for end, labels in after.items()}
    return [label[2][:-1] for label in layer.get(ends[-1], [])]


def _kept(labels: Iterable[Label], top: int) -> list[Label]:
    """The labels, except any for which `top` other labels are at least as good in both costs."""
    kept: list[Label] = []
    for label in sorted(labels):
        if sum(other[1] <= label[1] for other in kept) < top:
            kept.append(label)
    return kept


def _chain_cost(model: CostModel, question: Question, order: Sequence[str], transport: str) -> Cost:
    """The costs of a group of a chain: of its stages, of the message that it takes, and of its half of the next one."""
    message = model.transports[transport]
    crossing = {at: model.traffic.crossing_bytes(at) for at in (0, *model.bridges)}
    halves = {at: message.seconds(model.traffic.answer + nbytes).value / 2 for at, nbytes in crossing.items()}

    def cost(number: int, start: int, end: int) -> tuple[float, float] | None:
        host = order[number]
        if not _allowed(model, question, number, host, start, end):
            return None
        load = model.runs[host].seconds(start, end).value + halves[start] + halves.get(end, 0.0)
        source, client = order[number - 1] if number else model.client, 0.0 if number else halves[0]
        nbytes = crossing[start] * message.density.get(start, 1.0)
        there, back = model.path(source, host), model.path(host, source)
        links = there.wire(nbytes), back.wire(model.traffic.answer)
        seconds = client + model.devices[host].elapsed(load) + sum(links) + there.delay + back.delay
        device = model.devices[host]
        if question.goal == GOALS[0]:
            return seconds, model.least(host, load)
        return seconds, max(device.busy(load), client, *links)

    return cost


def _bound(model: CostModel, question: Question, order: Sequence[str], transport: str) -> float:
    """A lower bound of the goal's value over all cuts of the profiled positions into the groups of `order`."""
    message, operations = model.transports[transport], len(model.graph.operations)
    density, bridges = min(message.density.values(), default=1.0), frozenset(model.bridges)

    def cost(number: int, start: int, end: int) -> tuple[float, float] | None:
        host = order[number]
        if not _allowed(model, question, number, host, start, end):
            return None
        device, run, nbytes = (
            model.devices[host],
            model.runs[host].seconds(start, end).value,
            model.traffic.taken(start, end),
        )
        half = message.seconds(nbytes + model.traffic.answer).value / 2
        # Tensors that cross a bridge come from the group before it; other tensors may come from any earlier group.
        before = order[number - 1] if number else model.client
        sources = [before] if start == 0 or start in bridges else [model.client, *order[:number]]
        carried = nbytes * density
        link = min(
            model.path(source, host).seconds(carried) + model.path(host, source).seconds(model.traffic.answer)
            for source in sources
        )
        wires = (model.path(before, host).wire(carried), model.path(host, before).wire(model.traffic.answer))
        busy = max(device.busy(run + half), *(wires if len(sources) == 1 else (0.0,)))
        return device.elapsed(run + half) + half + link, model.least(host, run + half) if question.goal == GOALS[
            0
        ] else busy

    ends = (*model.positions, operations)
    found = [_value(cuts, cost, operations, question.goal) for cuts in chains(ends, len(order), cost)]
    return min(found, default=math.inf)


def _value(cuts: Sequence[int], cost: Cost, operations: int, goal: str) -> float:
    edges = list(itertools.pairwise((0, *cuts, operations)))
    parts = [cost(number, *edge) for number, edge in enumerate(edges)]
    sums, largest = zip(*(part for part in parts if part), strict=True)
    return float(max(math.fsum(sums), *largest) if goal == GOALS[0] else max(largest))


def _long(model: CostModel, question: Question) -> Iterator[tuple[tuple[str, ...], str]]:
    """The orders and transports whose candidates are not all predicted."""
    return ((order, name) for order in orders(model, question) if len(order) > 2 for name in model.transports)


def _allowed(model: CostModel, question: Question, number: int, host: str, start: int, end: int) -> bool:
    if number == 0 and question.keep_first and (host != model.client or end < question.keep_first):
        return False
    memory = model.devices[host].memory
    return not memory or model.memory(host, start, end) <= memory


def _fits(model: CostModel, item: Candidate, question: Question) -> bool:
    ends = (0, *item.placed.cuts, len(model.graph.operations))
    groups = enumerate(zip(item.placed.hosts, itertools.pairwise(ends), strict=True))
    allowed = all(_allowed(model, question, number, host, *edge) for number, (host, edge) in groups)
    return allowed and not 0 < question.deadline < item.cost.seconds.value


def _unmet(model: CostModel, found: Sequence[Candidate], question: Question) -> str:
    """A text that names the constraint that no candidate meets, and says what would be valid."""
    placed = [item for item in found if _fits(model, item, replace(question, deadline=0.0))]
    if placed:
        best = min(item.cost.seconds.value for item in placed)
        return (
            f"no cut answers within {question.deadline:g} s; the fastest takes {best:.3g} s: give that deadline or more"
        )
    free = replace(model, devices={name: replace(device, memory=0) for name, device in model.devices.items()})
    if any(_fits(free, item, replace(question, deadline=0.0)) for item in found):
        least = min(found, key=lambda item: max(item.cost.memory.values())).cost.memory
        need = ", ".join(f"{host} {size / 1e6:.0f} MB" for host, size in least.items())
        return f"no cut fits into the memory of the hosts; the least that one needs is {need}"
    return "no cut meets the constraints: the hosts, the groups and the operations that stay contradict each other"
