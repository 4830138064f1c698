"""The groups of options of a run, and the values that several of them have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import transports
from cluster import runtimes
from partitioning.options import option

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


def split_links(raw: Any, where: str) -> list[Any]:
    """The values in `raw`: a text is one, whatever commas it has; a list holds values."""
    return raw if isinstance(raw, list) else [raw]
