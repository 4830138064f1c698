"""Makes samples of answered requests, and of requests under a load that missed their time limit."""

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
    """The sample of the answered request `number`; `start` and `seconds` are as in the columns of samples.csv."""
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
    """The sample of a request that was not answered in time, or that a full server refused. Only `seconds` is known, at
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
