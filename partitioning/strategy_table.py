"""The modes and cuts by name. `partitioning.strategies` makes the plans.

Imports no numpy, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partitioning.errors import PartitionError

MODES = ("whole", "layer", "submodel")
SLACKS: Mapping[str, float] = {"balanced": 1.05, "narrow": 1.5}
"""Cuts found by search -> the cost limit of a group, as a multiple of an even share.

A pipeline is as fast as its slowest server, so `balanced` makes even groups. A single request takes the sum of all
groups in any case, and gains only from fewer bytes, so `narrow` allows uneven groups."""
ADVISED = "advised"
"""The cut that a run chooses from a profile (`splitbench advise`)."""
CUTS = ("equal", *SLACKS, ADVISED)
"""Cuts that are computed. Any other cut names the first operations of groups."""


def split_cuts(raw: Any, where: str) -> list[Any]:
    """The cuts in `raw`: `"equal,balanced"` is two cuts, `"a,b"` is one cut at two operations; a list holds cuts."""
    if isinstance(raw, list):
        return [cut for item in raw for cut in split_cuts(item, where)] or [""]
    if not isinstance(raw, str):
        return [raw]
    items = [item.strip() for item in raw.split(",")]
    whole = [item in CUTS or "+" in item for item in items]
    if any(whole) and not all(whole):
        raise PartitionError(f"{where}: {raw!r} mixes cuts and operations; join the operations of one cut with '+'")
    cuts = items if all(whole) else ["+".join(items)]
    if len(items) > 1 and "" in items:
        raise PartitionError(f"{where}: {cuts[0]!r} has an empty operation name in it")
    return cuts
