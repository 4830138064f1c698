"""The modes and cuts by name. `partitioning.strategies` makes the plans.

Imports no numpy, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping

MODES = ("whole", "layer", "submodel")
SLACKS: Mapping[str, float] = {"balanced": 1.05, "narrow": 1.5}
"""Cuts found by search -> the most expensive group's limit, as a multiple of an even share of the cost.

Requests in a pipeline wait for the slowest server, so a pipeline needs even groups. A single request takes the sum of
all groups in any case, and gains only from few bytes."""
CUTS = ("equal", *SLACKS)
"""Cuts that are computed; any other cut names the first operations of groups."""
