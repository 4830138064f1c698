"""Graphs that are made without Keras: chains, and random graphs for property tests."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.order import needed


def chain(*sizes: int) -> Graph:
    """Operations `o0`, `o1`, ... in a row. The output of the k-th is a float32 tensor of `sizes[k]` elements."""
    names = ["x", *(f"o{index}" for index in range(len(sizes)))]
    tensors = {name: TensorInfo(name, (None, size), "float32") for name, size in zip(names, (1, *sizes), strict=True)}
    operations = tuple(Operation(name, "Op", (before,), (name,)) for before, name in itertools.pairwise(names))
    return Graph(operations, tensors, ("x",), (names[-1],))


@st.composite
def graphs(draw: st.DrawFn, most: int = 12) -> Graph:
    """A graph of up to `most` operations with several inputs and outputs. Some output depends on every operation."""
    tensors = {name: TensorInfo(name, (None, 3), "float32") for name in ("x", "y")}
    operations = []
    for index in range(draw(st.integers(1, most))):
        taken = draw(st.lists(st.sampled_from(list(tensors)), min_size=1, max_size=3, unique=True))
        labels = [f"o{index}"] if draw(st.booleans()) else [f"o{index}:0", f"o{index}:1"]
        operations.append(Operation(f"o{index}", "Op", tuple(taken), tuple(labels)))
        tensors |= {label: TensorInfo(label, (None, draw(st.integers(1, 9))), "float32") for label in labels}
    made = [label for operation in operations for label in operation.outputs]
    outputs = tuple(draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)))
    return Graph(tuple(needed(operations, outputs)), tensors, ("x", "y"), outputs)
