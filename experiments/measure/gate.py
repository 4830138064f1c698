"""The correctness gate: no answer that differs from the local model's enters a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.partition import Partition
from transports.base import Array
from transports.errors import SplitbenchError

TOLERANCE = 1e-3
"""Largest deviation that passes. Engines that fuse operations round differently, by about 1e-6."""


class OutputDiffers(SplitbenchError):
    """An answer differs from the local model's; the text names the output, its stage, its server and the deviation."""


def deviation(output: Array, expected: Array) -> float:
    """max |output - expected| / max |expected|; infinite if shape or dtype differ or a value is not finite."""
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return float("inf")
    if not output.size:
        return 0.0
    wide = np.complex128 if output.dtype.kind == "c" else np.float64
    found, right = output.astype(wide), expected.astype(wide)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - right).max()) / (float(np.abs(right).max()) or 1.0)


def check(outputs: Mapping[str, Array], expected: Mapping[str, Array], cell: str, partition: Partition) -> float:
    """The largest deviation of the model's outputs. Raises `OutputDiffers` if it exceeds `TOLERANCE`."""
    found = {name: deviation(outputs[name], right) for name, right in expected.items()}
    name, worst = max(found.items(), key=lambda item: item[1])
    if not worst <= TOLERANCE:
        stage = str(partition.plan.edges[name].producer)
        raise OutputDiffers(
            f"cell {cell}: output {name!r} (stage {stage!r}, server {partition.placement[stage]}) deviates from the "
            f"local model's by {worst:.2e} of its largest value; expected at most {TOLERANCE:.0e}"
        )
    return worst
