"""Strategies: from a graph to a stage number for each operation. All edges are derived. Imports no TensorFlow.

A strategy says which operations belong together and nothing else; `partitioning.plan.build_plan` makes the plan of it.
Groups are neighbours in the graph's order, so that no strategy here can make a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from partitioning.errors import PartitionError, suggest
from partitioning.graph import Graph
from partitioning.plan import Plan, build_plan

MODES = ("whole", "layer", "submodel")
SLACKS: Mapping[str, float] = {"balanced": 1.05, "narrow": 1.5}
"""Cuts found by search -> how many times an even share the most expensive group may cost, where that saves bytes.

Requests that follow each other through the servers wait for the slowest one, so that a pipeline wants even groups. One
request at a time takes the sum of all groups however they are shared out, and gains by few bytes alone."""
CUTS = ("equal", *SLACKS)
"""Cuts that are found; any other names the operations with which groups begin."""

Numbers = tuple[int, ...]
Floats = npt.NDArray[np.float64]


def whole(graph: Graph) -> Numbers:
    """One stage: the local model."""
    return (0,) * len(graph.operations)


def layer(graph: Graph) -> Numbers:
    """One stage for each operation, those that are no Keras layer included."""
    return tuple(range(len(graph.operations)))


def equal(graph: Graph, n: int) -> Numbers:
    """`n` groups with the same number of operations in each, give or take one."""
    _check_groups(graph, n)
    return tuple(index * n // len(graph.operations) for index in range(len(graph.operations)))


def at_cuts(graph: Graph, names: Sequence[str]) -> Numbers:
    """A new group begins at each operation named. Raises `PartitionError` for a name that begins none."""
    order = {operation.name: index for index, operation in enumerate(graph.operations)}
    for name in names:
        if name not in order:
            raise PartitionError(
                f"no operation {name!r} to cut before{suggest(name, order)}; "
                "`python -m partitioning.show --mode layer` lists them"
            )
        if order[name] == 0:
            raise PartitionError(f"nothing comes before {name!r}, the first operation: cut before a later one")
    if len(set(names)) < len(names):
        raise PartitionError(f"the same cut is named twice: {', '.join(names)}")
    starts = {order[name] for name in names}
    return tuple(np.cumsum([index in starts for index in range(len(order))]).tolist())


def balanced(graph: Graph, n: int, costs: Mapping[str, float], slack: float = SLACKS["balanced"]) -> Numbers:
    """`n` groups of about the same cost (seconds by operation), cut where few bytes cross.

    The most expensive group costs at most `max(T*, slack * total / n)`, where `T*` is the smallest that `n` groups can
    have. Of all such partitions, this is one that sends the fewest bytes, then the fewest tensors, from group to group.
    (Chains-on-chains partitioning, Pinar & Aykanat 2004, with the communication as second goal.)
    """
    _check_groups(graph, n)
    total = np.concatenate([[0.0], np.cumsum([max(0.0, costs[op.name]) for op in graph.operations])])
    limit = max(_smallest_bottleneck(total, n), slack * total[-1] / n)
    # Sums of floats in another order differ in the last digits; a limit below its own bottleneck has no solution.
    return _numbers(_cheapest_cuts(total, n, limit * (1 + 1e-9), _traffic(graph)), len(graph.operations))


def make_plan(
    graph: Graph, mode: str, cut: str = "equal", groups: int = 1, costs: Mapping[str, float] | None = None
) -> Plan:
    """The plan for a mode: `whole`, `layer`, or `submodel` cut into `groups`.

    `cut` is `equal`, one of `SLACKS` (which need `costs`) or the names of operations, each the first of a new group,
    with `+` between them; then `groups` does not count. Raises `PartitionError` for a value that cannot be used.
    """
    if mode == "whole":
        return build_plan(graph, whole(graph), mode)
    if mode == "layer":
        return build_plan(graph, layer(graph), mode)
    if mode != "submodel":
        raise PartitionError(f"no mode {mode!r}{suggest(mode, MODES)}; valid: {', '.join(MODES)}")
    return build_plan(graph, _submodel(graph, cut, groups, costs), mode)


def _submodel(graph: Graph, cut: str, groups: int, costs: Mapping[str, float] | None) -> Numbers:
    if cut == "equal":
        return equal(graph, groups)
    if cut not in SLACKS:
        return at_cuts(graph, [name.strip() for name in cut.split("+")])
    if costs is None:
        raise PartitionError(f"the cut {cut!r} needs the cost of every operation: measure them first")
    return balanced(graph, groups, costs, SLACKS[cut])


def _check_groups(graph: Graph, n: int) -> None:
    if not 1 <= n <= len(graph.operations):
        raise PartitionError(
            f"{n} groups of {len(graph.operations)} operations: valid are 1 to {len(graph.operations)}"
        )


def _smallest_bottleneck(total: Floats, n: int) -> float:
    """The smallest cost that the most expensive of `n` non-empty groups can have; `total` holds prefix sums."""
    best = total.copy()
    best[0] = np.inf
    for group in range(1, n):
        before, best = best, np.full_like(best, np.inf)
        for end in _ends(group, n, len(total)):
            best[end] = np.maximum(before[:end], total[end] - total[:end]).min()
    return float(best[-1])


def _ends(group: int, n: int, size: int) -> range:
    """Where the group of that number can end, such that those before it and those after it are not empty."""
    return range(group + 1, size - (n - 1 - group))


def _traffic(graph: Graph) -> npt.NDArray[np.int64]:
    """`[i, j]`: what a group of the operations `i..j-1` takes from before it, as bytes * 2**20 + tensors.

    A tensor is sent once to each group that consumes it, be it the next one or a later one.
    """
    size = len(graph.operations)
    made = {tensor: index for index, operation in enumerate(graph.operations) for tensor in operation.outputs}
    taken = np.zeros((size + 1, size + 1), np.int64)
    previous: dict[str, int] = {}
    for end, operation in enumerate(graph.operations):
        for tensor in operation.inputs:
            # A group that begins after the tensor was made, and after its last use, meets it here for the first time.
            first = max(made.get(tensor, -1), previous.get(tensor, -1)) + 1
            taken[first : end + 1, end + 1] += (graph.tensors[tensor].nbytes << 20) + 1
            previous[tensor] = end
    return taken.cumsum(axis=1)


def _cheapest_cuts(total: Floats, n: int, limit: float, taken: npt.NDArray[np.int64]) -> list[int]:
    """Where each group begins, such that none is above the limit and what they take in all is least."""
    size = len(total)
    worst = np.iinfo(np.int64).max // 2
    lowest = np.searchsorted(total, total - limit, side="left")
    best = np.full(size, worst)
    best[0] = 0
    choices = []
    for group in range(n):
        before, best = best, np.full(size, worst)
        choice = np.zeros(size, np.int64)
        for end in _ends(group, n, size):
            start = lowest[end]
            sums = before[start:end] + taken[start:end, end]
            choice[end] = start + sums.argmin() if len(sums) else 0
            best[end] = min(sums.min(initial=worst), worst)
        choices.append(choice)
    starts = [size - 1]
    for choice in reversed(choices):
        starts.append(int(choice[starts[-1]]))
    return starts[:0:-1]


def _numbers(starts: Sequence[int], size: int) -> Numbers:
    return tuple((np.searchsorted(starts, np.arange(size), side="right") - 1).tolist())
