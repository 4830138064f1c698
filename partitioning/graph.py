"""The graph of a model as plain records, which strategies cut. Imports no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

ITEMSIZES: Mapping[str, int] = {
    **dict.fromkeys(("bool", "float8_e4m3fn", "float8_e5m2"), 1),
    "bfloat16": 2,
    "complex64": 8,
    "complex128": 16,
    **{f"{kind}int{bits}": bits // 8 for kind in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
}
"""The dtypes that a plan admits -> the bytes of one element. Transports may carry fewer dtypes."""


class TensorInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of the graph. An extent that the model leaves open (the batch) is `None`."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes at batch 1: every open extent counts as one."""
        return math.prod(1 if extent is None else extent for extent in self.shape) * ITEMSIZES[self.dtype]


class Operation(Struct, frozen=True, forbid_unknown_fields=True):
    """One call of a layer, or of a Keras operation that is no layer. A layer that is called twice is two operations.

    `kind` is the name of the class; `inputs` and `outputs` are names of tensors.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph(Struct, frozen=True, forbid_unknown_fields=True):
    """Operations in an order in which they can run, and their tensors by name.

    No operation produces the graph's inputs. `inputs` and `outputs` are in the model's order.
    """

    operations: tuple[Operation, ...]
    tensors: Mapping[str, TensorInfo]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
