"""Strategies: functions from a graph to a stage number for each operation. Imports no TensorFlow.

`partitioning.plan.build_plan` makes the plan from the numbers. Each group consists of neighbours in the graph's order,
so no strategy can make a cycle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from partitioning.errors import PartitionError, suggest
from partitioning.graph import Graph
from partitioning.plan import Plan, build_plan
from partitioning.strategy_table import ADVISED, MODES, SLACKS

Numbers = tuple[int, ...]
Floats = npt.NDArray[np.float64]


def whole(graph: Graph) -> Numbers:
    """One stage: the local model."""
    return (0,) * len(graph.operations)


def layer(graph: Graph) -> Numbers:
    """One stage for each operation, including Keras operations that are no layers."""
    return tuple(range(len(graph.operations)))


def equal(graph: Graph, n: int) -> Numbers:
    """`n` groups whose numbers of operations differ by one at most."""
    _check_groups(graph, n)
    return tuple(index * n // len(graph.operations) for index in range(len(graph.operations)))


def at_cuts(graph: Graph, names: Sequence[str]) -> Numbers:
    """A new group begins at each named operation. Raises `PartitionError` for a name that cannot begin a group."""
    order = {operation.name: index for index, operation in enumerate(graph.operations)}
    for name in names:
        if name not in order:
            raise PartitionError(
                f"no operation {name!r} to cut before{suggest(name, order)}; "
                "`python -m partitioning.show --mode layer` lists them"
            )
        if order[name] == 0:
            raise PartitionError(f"{name!r} is the first operation: cut before a later one")
    if len(set(names)) < len(names):
        raise PartitionError(f"the same cut is named twice: {', '.join(names)}")
    starts = {order[name] for name in names}
    return tuple(np.cumsum([index in starts for index in range(len(order))]).tolist())


def balanced(graph: Graph, n: int, costs: Mapping[str, float], slack: float = SLACKS["balanced"]) -> Numbers:
    """`n` groups of about the same cost (seconds by operation), cut where few bytes cross.

    The most expensive group costs at most `max(T*, slack * total / n)`, where `T*` is the least possible cost of the
    most expensive of `n` groups. Of all such partitions, the result sends the fewest bytes between groups, then the
    fewest tensors. (Chains-on-chains partitioning, Pinar & Aykanat 2004, with communication as the second goal.)
    """
    _check_groups(graph, n)
    total = np.concatenate([[0.0], np.cumsum([max(0.0, costs[op.name]) for op in graph.operations])])
    limit = max(_smallest_bottleneck(total, n), slack * total[-1] / n)
    # The last digits of a sum of floats depend on its order. The margin keeps the limit from falling below the
    # bottleneck, where no partition would satisfy it.
    starts = _cheapest_cuts(total, n, limit * (1 + 1e-9), _traffic(graph))
    return tuple((np.searchsorted(starts, np.arange(len(graph.operations)), side="right") - 1).tolist())


def make_plan(
    graph: Graph, mode: str, cut: str = "equal", groups: int = 1, costs: Mapping[str, float] | None = None
) -> Plan:
    """The plan for a mode: `whole`, `layer`, or `submodel` cut into `groups`.

    `cut` is `equal`, one of `SLACKS` (which need `costs`), or names of operations joined by `+` or commas, each the
    first operation of a new group; names determine the number of groups, and `groups` is then ignored. Raises
    `PartitionError` for a value that cannot be used.
    """
    strategies: Mapping[str, Callable[[Graph], Numbers]] = {
        "whole": whole,
        "layer": layer,
        "submodel": lambda graph: _submodel(graph, cut, groups, costs),
    }
    if mode not in strategies:
        raise PartitionError(f"no mode {mode!r}{suggest(mode, MODES)}; valid: {', '.join(MODES)}")
    return build_plan(graph, strategies[mode](graph), mode)


def _submodel(graph: Graph, cut: str, groups: int, costs: Mapping[str, float] | None) -> Numbers:
    if cut == "equal":
        return equal(graph, groups)
    if cut == ADVISED:
        raise PartitionError(f"the cut {ADVISED!r} needs a profile: valid in splitbench run, with --profile FOLDER")
    if cut not in SLACKS:
        return at_cuts(graph, _names(cut, [operation.name for operation in graph.operations]))
    if costs is None:
        raise PartitionError(f"the cut {cut!r} needs the cost of every operation: measure them first")
    return balanced(graph, groups, costs, SLACKS[cut])


def _names(cut: str, known: Sequence[str]) -> list[str]:
    """The names joined in `cut`. Names may contain the separators. Raises `PartitionError` if `cut` is ambiguous."""
    pieces = re.split(r"\s*[+,]\s*", cut.strip())
    names = {tuple(re.split(r"\s*[+,]\s*", name.strip())): name for name in known}
    readings: list[list[list[str]]] = [[[]]]
    for end in range(1, len(pieces) + 1):
        words = [(start, names.get(tuple(pieces[start:end]))) for start in range(end)]
        found = [[*head, word] for start, word in words if word for head in readings[start]]
        readings.append(found[:2])
    if len(readings[-1]) > 1:
        both = " or ".join(repr(reading) for reading in readings[-1])
        raise PartitionError(f"the cut {cut!r} is ambiguous: {both}; rename a layer")
    if not readings[-1] and "" in pieces:
        raise PartitionError(f"the cut {cut!r} has an empty operation name in it")
    return readings[-1][0] if readings[-1] else pieces


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
    """The possible ends of group number `group`: every group before and after it needs an operation."""
    return range(group + 1, size - (n - 1 - group))


def _traffic(graph: Graph) -> npt.NDArray[np.int64]:
    """`[i, j]`: the traffic to a group of the operations `i..j-1` from earlier ones, as bytes * 2**20 + tensors.

    A tensor is sent once to each group that consumes it.
    """
    size = len(graph.operations)
    made = {tensor: index for index, operation in enumerate(graph.operations) for tensor in operation.outputs}
    taken = np.zeros((size + 1, size + 1), np.int64)
    previous: dict[str, int] = {}
    for end, operation in enumerate(graph.operations):
        for tensor in operation.inputs:
            # For groups that begin after the tensor's operation and after its previous use, this use is the first.
            first = max(made.get(tensor, -1), previous.get(tensor, -1)) + 1
            taken[first : end + 1, end + 1] += (graph.tensors[tensor].nbytes << 20) + 1
            previous[tensor] = end
    return taken.cumsum(axis=1)


def _cheapest_cuts(total: Floats, n: int, limit: float, taken: npt.NDArray[np.int64]) -> list[int]:
    """The first operation of each group, for groups within the cost limit that have the least traffic in all."""
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
