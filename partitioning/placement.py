"""Placements: the server of each stage. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from partitioning.plan import Plan

Placement = Mapping[str, int]
"""Stage name -> index of its server."""

BLOCK = 9
"""Neighbouring stages in a block of `block-cyclic`. With five servers and one stage per operation of MobileNetV3Large,
blocks of nine need 41 messages per request and enter each server five times, as in the source document."""


def contiguous(plan: Plan, servers: int) -> Placement:
    """Neighbouring stages on one server; the servers' numbers of stages differ by one at most."""
    return {stage.name: index * servers // len(plan.stages) for index, stage in enumerate(plan.stages)}


def round_robin(plan: Plan, servers: int) -> Placement:
    """Stage `i` on server `i % servers`: with two servers or more, neighbouring stages never share a server."""
    return {stage.name: index % servers for index, stage in enumerate(plan.stages)}


def block_cyclic(plan: Plan, servers: int) -> Placement:
    """Blocks of `BLOCK` neighbouring stages, distributed to the servers in turn.

    Blocks are shorter in a plan with few stages, so that every server holds a block.
    """
    block = max(1, min(BLOCK, len(plan.stages) // servers))
    return {stage.name: index // block % servers for index, stage in enumerate(plan.stages)}


PLACEMENTS: Mapping[str, Callable[[Plan, int], Placement]] = {
    "contiguous": contiguous,
    "round-robin": round_robin,
    "block-cyclic": block_cyclic,
}
ALIASES: Mapping[str, str] = {"striped": "block-cyclic"}
"""Older names of placements that flags and TOML files still accept -> the name that is recorded."""
