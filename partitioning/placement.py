"""Placements: which server holds which stage, apart from the plan. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from partitioning.plan import Plan

__all__ = ["PLACEMENTS", "Placement", "contiguous", "round_robin"]

Placement = Mapping[str, int]
"""Stage name -> index of its server."""


def contiguous(plan: Plan, servers: int) -> Placement:
    """Neighbouring stages on one server, as many on each as on any other (give or take one)."""
    return {stage.name: index * servers // len(plan.stages) for index, stage in enumerate(plan.stages)}


def round_robin(plan: Plan, servers: int) -> Placement:
    """Stage `i` on server `i % servers`: neighbours never meet while there is more than one server."""
    return {stage.name: index % servers for index, stage in enumerate(plan.stages)}


PLACEMENTS: Mapping[str, Callable[[Plan, int], Placement]] = {"contiguous": contiguous, "round-robin": round_robin}
