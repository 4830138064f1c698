"""The gate of answers that crossed a lossy wire: how far they are from the local model's, and which of them fail.

How much loss is acceptable depends on the use, and a lossy cell measures the loss. So an answer fails only for a wrong
shape, a wrong dtype, or a value that is finite where the local model's is not, or the other way round. Figures describe
the rest:
  deviation   as in `experiments.measure.gate`; of integers and booleans the share of elements that differ
  cosine      cosine similarity to the local model's answer, for the item and output with the smallest; 0 if negative
  top1        the share of items whose largest value (along the last axis, of at least two) is at the same place as the
              local model's; of integers and booleans the share of equal elements. The smallest of all outputs
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.partition import Partition
from experiments.measure import gate
from experiments.measure.gate import Right, Verdict
from experiments.measure.ties import DISCRETE
from experiments.measure.tolerance import Tolerance
from transports.base import Array

ANY = Tolerance(math.inf, "lossy")


def check(outputs: Mapping[str, Array], right: Right, cell: str, partition: Partition) -> Verdict:
    """Compare the model's outputs with the right ones. Raises `OutputDiffers` for a wrong output."""
    found = {name: compare(outputs[name], expected) for name, expected in right.outputs.items()}
    worst = gate.worst(found, cell, partition)
    cosines, agreed = ([getattr(each, name) for each in found.values()] for name in ("cosine", "top1"))
    return Verdict(worst.deviation, cosine=_smallest(cosines), top1=_smallest(agreed))


def compare(output: Array, expected: Array) -> Verdict:
    """Compare one output with the right one."""
    if fault := gate.form_fault(output, expected):
        return Verdict(np.inf, fault=fault)
    if not output.size:
        return Verdict()
    if expected.dtype.kind in DISCRETE:
        equal = float((output == expected).mean())
        return Verdict(1 - equal, top1=equal)
    verdict = gate.numbers(output, expected, ANY)
    if verdict.fault:
        return verdict
    return Verdict(verdict.deviation, cosine=_cosine(output, expected), top1=_top1(output, expected))


def _cosine(output: Array, expected: Array) -> float:
    """The smallest cosine of any item (along axis 0). Values that are not finite are equal in both, and left out."""
    found, right = _items(output), _items(expected)
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    products = (found * right.conj()).real.sum(axis=1)
    both_zero = ~found.any(axis=1) & ~right.any(axis=1)
    cosines = np.where(both_zero, 1.0, products / np.where(sizes > 0, sizes, 1.0))
    return float(np.clip(cosines, 0.0, 1.0).min())


def _items(array: Array) -> Any:
    """A row for each item, in a dtype wide enough for squares, and of a size that cannot overflow."""
    wide: Any = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    rows = wide.reshape(len(wide) if wide.ndim > 1 else 1, -1)
    rows = np.where(np.isfinite(rows), rows, 0.0)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1.0)


def _top1(output: Array, expected: Array) -> float:
    if expected.ndim < 2 or expected.shape[-1] < 2 or expected.dtype.kind == "c":
        return math.nan
    agreed = output.astype(np.float64).argmax(-1) == expected.astype(np.float64).argmax(-1)
    return float(agreed.mean())


def _smallest(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return min(known, default=math.nan)
