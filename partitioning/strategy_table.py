"""The modes and cuts by name. `partitioning.strategies` makes the plans.

Imports no numpy, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping

MODES = ("whole", "layer", "submodel")
SLACKS: Mapping[str, float] = {"balanced": 1.05, "narrow": 1.5}
"""Cuts found by search -> the cost limit of a group, as a multiple of an even share.

A pipeline is as fast as its slowest server, so it needs even groups. A single request takes the sum of all groups in
any case, and gains only from fewer bytes."""
CUTS = ("equal", *SLACKS)
"""Cuts that are computed. Any other cut names the first operations of groups."""
