"""Small graphs and partitions, made by hand."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.partition import Partition
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.plan import build_plan


def graph(edges: Mapping[str, tuple[str, ...]], outputs: tuple[str, ...]) -> Graph:
    """`edges`: operation -> the tensors that it takes. Its output has the same name. The graph's input is `x`."""
    operations = tuple(Operation(name, "Op", inputs, (name,)) for name, inputs in edges.items())
    tensors = {name: TensorInfo(name, (None, 2), "float32") for name in ("x", *edges)}
    return Graph(operations, tensors, ("x",), outputs)


def chain(length: int) -> Graph:
    """`x -> a0 -> a1 -> ...`."""
    return graph({f"a{i}": (f"a{i - 1}" if i else "x",) for i in range(length)}, (f"a{length - 1}",))


def fork() -> Graph:
    """`x -> a`; `b`, `c` and `join` take `a`; `join` also takes `b` and `c`."""
    return graph({"a": ("x",), "b": ("a",), "c": ("a",), "join": ("a", "b", "c")}, ("join",))


def placed(of: Graph, placement: list[int]) -> Partition:
    """One stage for each operation, on the servers that `placement` gives."""
    plan = build_plan(of, list(range(len(of.operations))), "layer")
    servers = dict(zip((stage.name for stage in plan.stages), placement, strict=True))
    return Partition("layer", plan, servers, ("eager",))
