"""Bytes on the wire, as the loopback interface counts them: every transport crosses it, and none is treated otherwise.

What is counted is all that crosses between two readings: tensors, serialisation, framing, HTTP/2, the headers of TCP
and IP, acknowledgements, questions to the registry, connections that are made. Rules:
  - Only a request that is under way alone can be told apart: there is no figure for several at a time.
  - Over `none` nothing crosses, so its figure is 0, and not what others sent meanwhile. With an engine that calls a
    model server those calls do cross, and are counted.
  - The interface counts for the whole machine. Heartbeats (some hundred bytes every few seconds) and other programs
    are in the figure of a request that they hit: take the median of many.
  - An acknowledgement that TCP delays comes after the answer, and is then missing: up to some 500 bytes a connection.
  - A packet of the loopback interface takes up to 64 kB, so that headers are a tenth of a percent of a large message.
    Packets of 1500 bytes, as on Ethernet, would add some 4 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import psutil

from experiments.spec.experiment import Cell
from experiments.store.environment import LOOPBACK
from partitioning.engine_table import is_remote


def sent() -> float:
    """Bytes that the loopback interface has sent since the machine started; NaN where it does not say."""
    try:
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
    except OSError:
        return math.nan
    return next((counters[name].bytes_sent for name in LOOPBACK if name in counters), math.nan)


def counting(cell: Cell) -> Callable[[], float]:
    """Begin to count what a request of `cell` sends; what is returned says it. NaN where nobody can tell."""
    if cell.transport == "none" and not is_remote(cell.engine):
        return lambda: 0
    if cell.concurrency > 1:
        return lambda: math.nan
    before = sent()
    return lambda: sent() - before
