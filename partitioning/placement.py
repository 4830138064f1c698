"""Placements: which server holds which stage, apart from the plan. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from partitioning.plan import Plan

Placement = Mapping[str, int]
"""Stage name -> index of its server."""

RUN = 9
"""Neighbouring stages in a stripe of `striped`. On five servers, nine of MobileNetV3Large's operations at a time make
41 messages in a request and enter each server five times: what the source document's per-layer implementation does."""


def contiguous(plan: Plan, servers: int) -> Placement:
    """Neighbouring stages on one server, as many on each as on any other (give or take one)."""
    return {stage.name: index * servers // len(plan.stages) for index, stage in enumerate(plan.stages)}


def round_robin(plan: Plan, servers: int) -> Placement:
    """Stage `i` on server `i % servers`: neighbours never meet while there is more than one server."""
    return {stage.name: index % servers for index, stage in enumerate(plan.stages)}


def striped(plan: Plan, servers: int) -> Placement:
    """Runs of `RUN` neighbouring stages, dealt to the servers in turn: each server is entered again and again.

    A plan with few stages has shorter runs, so that no server stays empty.
    """
    run = max(1, min(RUN, len(plan.stages) // servers))
    return {stage.name: index // run % servers for index, stage in enumerate(plan.stages)}


PLACEMENTS: Mapping[str, Callable[[Plan, int], Placement]] = {
    "contiguous": contiguous,
    "round-robin": round_robin,
    "striped": striped,
}
