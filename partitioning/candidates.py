"""The positions at which a profile measures cuts: a few, spread over the model, where few bytes cross.

Imports no TensorFlow.
"""

from __future__ import annotations

import itertools

from partitioning.graph import Graph
from partitioning.order import alive


def positions(graph: Graph, most: int) -> tuple[int, ...]:
    """Up to `most` positions (indices of first operations), ascending.

    The operations are divided into `most` parts of equally many operations. Each part contributes the position where
    the fewest bytes cross; of equal positions, the one where the fewest tensors cross, then the first.
    """
    count = len(graph.operations)
    widths = [0, *alive(graph.operations, graph.tensors)]
    tensors = [0, *_tensors(graph)]
    ends = sorted({1 + round(part * (count - 1) / most) for part in range(most + 1)})
    parts = [range(first, last) for first, last in itertools.pairwise(ends)]
    return tuple(min(part, key=lambda at: (widths[at], tensors[at], at)) for part in parts if part)


def _tensors(graph: Graph) -> list[int]:
    """Tensors that cross before each operation but the first."""
    made = {name: at for at, operation in enumerate(graph.operations) for name in operation.outputs}
    last = {name: at for at, operation in enumerate(graph.operations) for name in operation.inputs}
    count = len(graph.operations)
    return [sum(made.get(name, -1) < at <= end for name, end in last.items()) for at in range(1, count)]
