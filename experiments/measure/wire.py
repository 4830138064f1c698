"""Bytes on the wire, counted by the loopback interface, which carries the messages between all processes of a run.

The figure of a request is the difference of two readings: tensors, serialisation, framing, HTTP/2, TCP and IP headers,
acknowledgements, registry lookups and new connections. Rules:
  - Overlapping requests cannot be told apart: they have no figure.
  - Over `none` nothing crosses: the figure is 0, whatever other programs sent meanwhile. Only the calls of an engine
    that uses a model server are counted.
  - Runtimes use the interface, too. Tensors that Ray passes in shared memory are not counted.
  - A relay of an emulated link carries bytes over the interface a second time. The relay counts these bytes, and they
    are subtracted.
  - With processes on several machines there is no figure: no interface carries all messages.
  - Messages over Unix sockets do not cross the interface: a cell with such a transport has no figure.
  - The counter covers the whole machine. Figures of some requests include heartbeats (some hundred bytes every few
    seconds) and traffic of other programs: use the median of many requests.
  - Acknowledgements that TCP delays past the answer are missing: up to about 500 bytes per connection.
  - A packet of the loopback interface holds up to 64 kB, so that headers are a tenth of a percent of a large message.
    Packets of 1500 bytes, as on Ethernet, would add about 4 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import psutil

from cluster.facts import LOOPBACK
from experiments.spec.experiment import Cell
from experiments.store.environment import UNCOUNTED
from partitioning.engine_table import is_remote


def sent() -> float:
    """Bytes that the loopback interface has sent since the machine started; NaN without a counter."""
    try:
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
    except OSError:
        return math.nan
    return next((counters[name].bytes_sent for name in LOOPBACK if name in counters), math.nan)


def counting(cell: Cell, repeated: Callable[[], int] = lambda: 0, *, here: bool = True) -> Callable[[], float]:
    """Start counting for a request of `cell`; the returned function gives its bytes, NaN if they are unknown.

    `repeated`: the bytes that relays of emulated links have carried a second time until now. `here`: whether all
    processes run on this machine.
    """
    if cell.transport == "none" and not is_remote(cell.engine):
        return lambda: 0
    if cell.concurrency > 1 or cell.load or cell.transport in UNCOUNTED or not here:
        return lambda: math.nan
    carried = repeated()  # asking a relay sends bytes over the interface, so it is done before the first reading
    before = sent()

    def crossed() -> float:
        after = sent()
        return after - before - (repeated() - carried)

    return crossed
