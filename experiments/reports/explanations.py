"""The section of report.md that explains its figures."""

from __future__ import annotations

import pandas as pd

from experiments.reports import engine_titles as engines
from experiments.reports.markdown import line
from experiments.spec.experiment import Experiment
from experiments.spec.schedule import BLOCK, LASTING, LOADED, OVERLAPPING
from experiments.store.environment import UNCOUNTED
from experiments.store.intervals import MIN_BLOCKS, RESAMPLES
from experiments.store.loaded import GROWN, SERVED

_WIRE_IS = (
    "- **Wire** is the median number of bytes that the loopback interface sent during a request: tensors, "
    "serialisation, framing, HTTP/2, TCP and IP headers, acknowledgements and registry lookups. A packet of the "
    "loopback interface holds up to 64 kB; on Ethernet, headers would add about 4 %. Overlapping requests have no "
    "figure. A transport that compresses may send less than its payload. Over None only calls to model servers are "
    "counted. With model servers, Wire includes the bytes to and from them, but Payload only the tensors between "
    "client and nodes.",
)
_UNIX_IS = ("- Messages over Unix sockets do not cross the loopback interface: such a cell has no figure for Wire.",)
_QUEUE_IS = (
    "- **Queue** is the mean time that the stages of a request waited for a free core; it is a part of Outside the "
    "stages.",
)
_PAIRED = f"""
Requests of one block are not independent, and the machine drifts. Each round has one block of each cell, so whole
rounds are resampled, and a ratio compares blocks of the same round; the interval is Student's t interval of its
logarithm, with the standard error of the bootstrap. With fewer than {MIN_BLOCKS} rounds there is no interval. A block
is up to {BLOCK} requests, or {OVERLAPPING} for each request in flight if there are several; with order blocked it is
all requests of a cell."""
_UNPAIRED = f"""
The samples were taken by an earlier version, without rounds: whole blocks of both cells are resampled independently
of each other, because requests of one block are not independent, and the percentiles are widened for few blocks
(Hesterberg 2015). A cell with fewer than {MIN_BLOCKS} blocks has no interval. A block is 10 requests for each request
in flight; with order blocked it is all requests of a cell."""


_LOAD_IS = (
    "- **Open loop**: with a load, requests begin at intended moments, whether or not earlier ones are answered. Their "
    "seconds count from the intended start, so a server that stops delays every request that was to begin meanwhile, "
    "and p99 shows it. **Late** is the mean time from the intended to the actual start, a part of the seconds. In "
    f"rounds a block has as many requests as arrive in {LASTING:g} s at the largest rate, and at least {LOADED}.",
    "- **Missed** requests were not answered within the time limit. Each counts in means and percentiles with the time "
    "at which the client gave up, a lower bound, and in no rate. **Offered** is the rate at which requests arrived, "
    "**Goodput** the rate of answers within the time limit. A block begins a mean gap before its first start.",
    "- **Power** is goodput over mean latency; the rate of a sweep at which it is largest is the knee (L. Kleinrock, "
    "1979). The interval of Power / knee is paired by round, like that of x / Local. **Late p99**: 99 % of the "
    "requests began at most so long after their intended start.",
    "- **Last / first third** is the mean of the last third of a block's requests over that of its first third. A cell "
    f"is overloaded if this is at least {GROWN:g} and, with an interval, beyond noise, while less than "
    f"{100 * SERVED:.0f} % of the offered rate is answered; or if most requests missed.",
    "- The local model is always measured in a closed loop, one request at a time: **x / Local** of a cell with a load "
    "includes the time that its requests wait for each other, and says nothing of the local model under that load. "
    "**x / None** compares the same load.",
)


def how_to_read(experiment: Experiment, summary: pd.DataFrame, titles: engines.Titles, rounds: bool) -> list[str]:
    """`rounds`: whether the samples were taken in rounds."""
    lines = [
        "- **Local** is the whole model in the client's process, with the same model, engine, batch size and thread "
        "settings, measured in the same experiment. Each ratio uses the local model of its own engine and batch size.",
        "- **None** is the same partition with direct calls instead of a transport: the cost of splitting alone.",
        "- **Mean, median, p90, p99** are wall-clock seconds of a request, measured at the client.",
        "- **Std Dev** is the sample standard deviation (divided by n - 1). The source document does not say which one "
        "it used.",
        "- **x / Local** and **x / None** are ratios of means.",
        f"- **95 % interval** is the interval of x / Local, from a bootstrap of {RESAMPLES} resamples (seed "
        f"{experiment.seed}). {line(_PAIRED if rounds else _UNPAIRED)} The intervals of x / None and Throughput x "
        "Local use the same method.",
        "- **Outside the stages** is the mean time of a request minus the time in its stages: the time of partition "
        "and transport. Compare it where noise of the local model hides differences in x / Local. It includes the time "
        "that overlapping requests wait for each other. Stages that run at the same time are each subtracted.",
        "- **Messages** (between handlers) and **Payload** (the bytes of their tensors; 1 MB = 1000000 bytes) are "
        "means per request. **Compute share** is the share of the time that requests spend in stages.",
        *(_WIRE_IS if (summary["wire_bytes"] > 0).any() else ()),
        *(_UNIX_IS if summary["transport"].isin(UNCOUNTED).any() else ()),
        *(_LOAD_IS if summary["offered"].notna().any() else ()),
        *(_QUEUE_IS if summary["queue_seconds"].notna().any() else ()),
        "- **Throughput** is requests per second, from the first start to the last end of each block.",
        "- **Deviation** is the largest difference from the local model's output, divided by its largest value.",
        *engines.explained(dict.fromkeys(map(str, summary["engine"])), titles),
        "- **Published** figures are those of the source document. It used another machine and does not name its "
        "model: compare the multiples, not the seconds.",
    ]
    return ["## How to read this", "", *lines]
