"""Samples of requests: of those that were answered, and of those under load that missed their time limit."""

from __future__ import annotations

import math
from typing import Any

from cluster.client import Answer
from experiments.measure.gate import Verdict
from experiments.spec.experiment import Cell
from experiments.spec.schedule import Block
from experiments.store.samples import Sample


def answered(
    cell: Cell, number: int, block: Block, seconds: float, start: float, answer: Answer, verdict: Verdict
) -> Sample:
    """`number` is that of the request; `start` and `seconds` are in seconds, as in the columns of samples.csv."""
    stats, packed = answer.stats, cell.wire != Cell.wire
    return Sample(
        cell,
        number,
        seconds,
        block.number,
        start=start,
        deviation=verdict.deviation,
        compute_seconds=stats.compute,
        messages=stats.messages,
        payload_bytes=stats.payload,
        lookups=stats.lookups,
        connects=stats.connects,
        repeated=answer.repeats,
        queue_seconds=stats.queued,
        round=block.round,
        near_ties=verdict.near_ties,
        cosine=verdict.cosine,
        top1=verdict.top1,
        pack_seconds=stats.pack if packed else math.nan,
        unpack_seconds=stats.unpack if packed else math.nan,
        raw_bytes=stats.raw if packed else math.nan,
        packed_bytes=stats.packed if packed else math.nan,
    )


def missed(cell: Cell, number: int, block: Block, seconds: float, start: float, late: float) -> Sample:
    """A request without an answer in time, or refused by a full server: nothing is known but that it took `seconds`, at
    least the time limit."""
    unknown: dict[str, Any] = dict.fromkeys(("messages", "payload_bytes", "lookups", "connects"), math.nan)
    return Sample(
        cell,
        number,
        seconds,
        block.number,
        start=start,
        round=block.round,
        late_seconds=late,
        missed=1,
        **unknown,
    )
