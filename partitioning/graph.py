"""The graph of a model as plain records: what strategies cut and plans describe. Imports no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

ITEMSIZES: Mapping[str, int] = (
    {"bool": 1, "bfloat16": 2, "complex64": 8, "complex128": 16}
    | {f"float8_{kind}": 1 for kind in ("e4m3fn", "e5m2")}
    | {
        f"{kind}{bits}": bits // 8
        for kind, sizes in {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}.items()
        for bits in sizes
    }
)


@dataclass(frozen=True)
class TensorInfo:
    """One value that flows through the graph. An extent that the model leaves open (the batch) is `None`."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes at batch 1: every open extent counts as one."""
        return math.prod(1 if extent is None else extent for extent in self.shape) * ITEMSIZES[self.dtype]


@dataclass(frozen=True)
class Operation:
    """One call of a layer, or of a Keras operation that is no layer. A layer that is called twice is two operations."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run, and the tensors between them by name.

    A model's inputs are tensors that no operation produces. `inputs` and `outputs` are in the model's own order.
    """

    operations: tuple[Operation, ...]
    tensors: Mapping[str, TensorInfo]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
