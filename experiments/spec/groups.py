"""The groups into which the options of a run fall, and values that several options share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import transports
from cluster import runtimes
from partitioning.options import SWITCH, option
from transports import packing

FILES = "files and the rest"
CODECS = ("raw", "tensorproto", "json", "json-b64")

TRANSPORTS: Mapping[str, str] = {**transports.NAMES, **runtimes.NAMES}
"""Every value of `transport`: transports that carry messages between nodes, and runtimes that need no nodes."""

carry = partial(option, group="what carries the tensors", concerns="client, nodes")
compute = partial(option, group="how a stage is executed", concerns="client, nodes, model servers")
access = partial(option, group="limits, addresses and TLS", concerns="client, nodes, registry")
pem = partial(access, concerns="transports", metavar="FILE")
place = partial(option, group="machines and links", concerns="client, nodes, registry, model servers")
failure = partial(option, group="node failures", concerns="nodes, registry")
schedule = partial(option, group="schedule", concerns="client")
ALL = "client, nodes, registry"

Load = Annotated[
    str,
    schedule(
        "open loop: requests begin at random (poisson:20/s) or at equal distances (constant:20/s), whether or not "
        "earlier ones are answered; poisson:auto or constant:auto: at eight rates, from 0.3 to 1.2 of the cell's "
        "capacity, which is measured first (some seconds a cell); none: a closed loop, as --concurrency says",
        metavar="KIND:RATE/s",
    ),
]
"""Open-loop load (`experiments.spec.load`)."""
Trace = Annotated[
    str,
    schedule(
        "record where the time of each request goes (phases.csv, trace.json); off,on measures what that costs",
        concerns="client, nodes",
        valid=SWITCH,
    ),
]
"""Tracing (`experiments.measure.tracing`)."""
Wire = Annotated[
    str,
    carry(
        "pack tensors while they cross: lz4, zstd and blosc2 keep every bit; f16, bf16, int8 and zfp (TOL: largest "
        "error, as a share of a tensor's largest value) round floats; jpeg packs the images sent to a whole model",
        metavar=packing.SHOWN,
    ),
]
"""Packing of tensors (`transports.packing`)."""


def split_links(raw: Any, where: str) -> list[Any]:
    """The values in `raw`: a text is one value, even with commas in it; a list holds several values."""
    return raw if isinstance(raw, list) else [raw]
