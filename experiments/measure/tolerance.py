"""How far an output may deviate from the local model's. This depends on the least exact arithmetic of the model."""

from __future__ import annotations

from collections.abc import Mapping
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
deviate by up to 6e-5, about 500 rounding errors; for float64 by up to 7e-14. In a lower precision, a tolerance of 500
rounding errors would let any answer pass: there the tolerance is about the square root of one rounding error. A
quantised layer rounds its inputs: an input that is rounded the other way moves by 1/127 (int8, and int4, which rounds
only weights further) or 1/16 (float8) of its value.
"""

FLOATS: Mapping[str, str] = {
    **{name: name for name in ("float64", FLOAT32, "float16", "bfloat16")},
    "complex64": FLOAT32,
    "complex128": "float64",
    "float8_e4m3fn": "float8",
    "float8_e5m2": "float8",
}
"""dtype -> its precision. Integers and booleans are exact."""


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


def _precisions(program: Program, operation: Operation) -> list[str]:
    """The precisions of an operation's results, and of the layers that compute them; none if no result is a float."""
    from partitioning.keras_internals import sublayers

    results = [program.graph.tensors[name].dtype for name in operation.outputs]
    if not any(dtype in FLOATS for dtype in results):
        return []
    layers = sublayers(program.steps[operation.name].operation)
    dtypes = [*results, *(layer.compute_dtype for layer in layers)]
    modes = [str(getattr(layer, "quantization_mode", "")) for layer in layers]
    return [*(FLOATS[dtype] for dtype in dtypes if dtype in FLOATS), *(mode for mode in modes if mode in TOLERANCES)]
