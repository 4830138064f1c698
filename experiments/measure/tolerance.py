"""How far an output may deviate from the local model's. It depends on the least exact arithmetic of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partitioning.graph import Operation

if TYPE_CHECKING:
    from partitioning.program import Program

EXACT = "exact"
TF32 = "tf32"
FLOAT32 = "float32"

TOLERANCES: Mapping[str, float] = {
    EXACT: 0.0,
    "float64": 1e-10,
    FLOAT32: 1e-3,
    TF32: 3e-2,
    "float16": 3e-2,
    "int8": 3e-2,
    "int4": 3e-2,
    "bfloat16": 1e-1,
    "float8": 1e-1,
}
"""Precision -> the largest deviation that passes, as a share of an output's largest value; the most exact first.

Engines that fuse operations round in other places, and deep models amplify that. For float32, MobileNetV3 and ResNet50
deviate by up to 6e-5, about 500 rounding errors; for float64 by up to 7e-14. A tolerance of as many rounding errors
would let any answer pass in a lower precision: there it is about the square root of one rounding error. A quantised
layer rounds its inputs: one that is rounded the other way moves by 1/127 (int8, and int4, which rounds only weights
further) or 1/16 (float8) of its value.
"""

NAMES: Mapping[str, str] = {
    "complex64": FLOAT32,
    "complex128": "float64",
    "float8_e4m3fn": "float8",
    "float8_e5m2": "float8",
}
"""Other dtypes -> their precision."""


@dataclass(frozen=True)
class Tolerance:
    """The largest deviation that passes, and why."""

    value: float
    precision: str
    operation: str = ""
    """The first operation that computes in this precision."""

    @property
    def reason(self) -> str:
        where = f" (operation {self.operation!r})" if self.operation else ""
        return f"the lowest precision on the path is {self.precision}{where}"

    def record(self) -> dict[str, Any]:
        """The entry `gate` of environment.json."""
        return {"tolerance": self.value, "reason": self.reason}


def tolerance_of(program: Program, *, tf32: bool = False) -> Tolerance:
    """The tolerance for the outputs of `program`. `tf32`: whether float32 is multiplied in TF32."""
    first: dict[str, str] = {EXACT: ""}
    for operation in program.graph.operations:
        for precision in _precisions(program, operation):
            first.setdefault(TF32 if tf32 and precision == FLOAT32 else precision, operation.name)
    rank = list(TOLERANCES)
    lowest = max(first, key=rank.index)
    return Tolerance(TOLERANCES[lowest], lowest, first[lowest])


def _precisions(program: Program, operation: Operation) -> Iterator[str]:
    """The precisions of an operation's results, and those in which the layers that make them compute."""
    from partitioning.keras_internals import sublayers

    dtypes = [program.graph.tensors[name].dtype for name in operation.outputs]
    results = [
        name for name in (NAMES.get(dtype, dtype) for dtype in dtypes) if name in TOLERANCES and "int" not in name
    ]
    yield from results
    for layer in sublayers(program.steps[operation.name].operation) if results else ():
        named = (str(layer.compute_dtype), str(getattr(layer, "quantization_mode", None)))
        yield from (NAMES.get(name, name) for name in named if NAMES.get(name, name) in TOLERANCES)
