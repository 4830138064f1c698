"""The correctness gate: no answer that differs from the local model's enters a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cluster.partition import Partition
from experiments.measure.ties import DISCRETE, near_ties
from experiments.measure.tolerance import Tolerance
from transports.base import Array
from transports.errors import SplitbenchError


class OutputDiffers(SplitbenchError):
    """An answer differs from the local model's; the text names the output, its stage, its server and the difference."""


@dataclass(frozen=True)
class Right:
    """The local model's answer to a request."""

    outputs: Mapping[str, Array]
    tolerance: Tolerance
    scores: Mapping[str, Array] = field(default_factory=dict)
    """`experiments.measure.ties.scores_of`."""


@dataclass(frozen=True)
class Verdict:
    """How an output compares with the local model's."""

    deviation: float = 0.0
    """Of floats: max |output - right| / max |right|. Of integers and booleans: the share of elements that differ and
    are no near ties. Infinite if the two outputs cannot be compared."""
    near_ties: int = 0
    """Elements that differ, but whose candidates have scores within the tolerance."""
    fault: str = ""
    """What is wrong; empty if the output passes."""
    cosine: float = np.nan
    """`cosine` and `top1`: only of answers that crossed a lossy wire (`experiments.measure.lossy_gate`)."""
    top1: float = np.nan


def check(outputs: Mapping[str, Array], right: Right, cell: str, partition: Partition) -> Verdict:
    """The largest deviation of the model's outputs, and all near ties. Raises `OutputDiffers` for a wrong output."""
    found = {name: compare(outputs[name], right, name) for name in right.outputs}
    return Verdict(worst(found, cell, partition).deviation, sum(verdict.near_ties for verdict in found.values()))


def worst(found: Mapping[str, Verdict], cell: str, partition: Partition) -> Verdict:
    """The verdict on the output that deviates most. Raises `OutputDiffers` if an output is at fault."""
    name, verdict = max(found.items(), key=lambda item: (bool(item[1].fault), item[1].deviation))
    if verdict.fault:
        stage = str(partition.plan.edges[name].producer)
        where = f"output {name!r} (stage {stage!r}, server {partition.placement[stage]})"
        raise OutputDiffers(f"cell {cell}: {where} {verdict.fault}")
    return verdict


def compare(output: Array, right: Right, name: str) -> Verdict:
    """Compare the output `name` with the right one. Equal infinities, and NaN at the same places, are right."""
    expected, tolerance = right.outputs[name], right.tolerance
    if fault := form_fault(output, expected):
        return Verdict(np.inf, fault=fault)
    if not output.size:
        return Verdict()
    if expected.dtype.kind in DISCRETE:
        return _decisions(output, expected, right.scores.get(name), tolerance)
    return numbers(output, expected, tolerance)


def form_fault(output: Array, expected: Array) -> str:
    """What is wrong with the shape or the dtype of `output`; empty if both are right."""
    for what, found, valid in (
        ("shape", output.shape, expected.shape),
        ("dtype", output.dtype.name, expected.dtype.name),
    ):
        if found != valid:
            return f"has the {what} {found}; the local model's has {valid}"
    return ""


def numbers(output: Array, expected: Array, tolerance: Tolerance) -> Verdict:
    wide = np.complex128 if output.dtype.kind == "c" else np.float64
    found, right = output.astype(wide), expected.astype(wide)
    finite = np.isfinite(right)
    odd = np.isfinite(found) != finite
    odd |= ~finite & ~odd & ~((found == right) | (np.isnan(found) & np.isnan(right)))
    if odd.any():
        place = tuple(int(index) for index in np.argwhere(odd)[0])
        return Verdict(
            np.inf,
            fault=f"is not finite where the local model's is, or differs from it where that is not finite: at "
            f"{odd.sum()} of {odd.size} elements, first {found[place]} instead of {right[place]} at {list(place)}",
        )
    size = float(np.abs(right[finite]).max(initial=0.0)) or 1.0
    deviation = float(np.abs(found[finite] - right[finite]).max(initial=0.0)) / size
    if deviation <= tolerance.value:
        return Verdict(deviation)
    return Verdict(
        deviation,
        fault=f"deviates from the local model's by {deviation:.2e} of its largest value; expected at most "
        f"{tolerance.value:g}, since {tolerance.reason}",
    )


def _decisions(output: Array, expected: Array, scores: Array | None, tolerance: Tolerance) -> Verdict:
    count = int((output != expected).sum())
    ties = 0 if scores is None or not count else near_ties(output, expected, scores, tolerance.value)
    if count == ties:
        return Verdict(0.0, ties)
    share = f"differs from the local model's in {count} of {output.size} elements ({count / output.size:.2%})"
    if scores is None:
        known = "whether they are near ties cannot be known, since the values that decide them are not visible"
    else:
        known = f"{ties} of them are near ties, with scores within {tolerance.value:g} of the largest"
    return Verdict((count - ties) / output.size, ties, f"{share}; {known}")
