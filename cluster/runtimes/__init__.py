"""Runtimes: systems that carry and execute the stages of a plan by themselves, without a node of ours.

A runtime is one class and one line in `NAMES`. Reading what it is (`kind`) imports no library; its library is imported
when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transports import check_installed, find

if TYPE_CHECKING:
    from cluster.runtimes.base import Runtime

__all__ = ["NAMES", "is_runtime", "kind", "load"]

NAMES: Mapping[str, str] = {
    "sockets": "cluster.runtimes.sockets:Sockets",
    "ray": "cluster.runtimes.ray_runtimes:RayActors",
    "ray-graph": "cluster.runtimes.ray_runtimes:RayGraph",
    "tf-runtime": "cluster.runtimes.tf_runtime:TensorFlowRuntime",
}
"""Runtime name -> "module:class"."""


def is_runtime(name: str) -> bool:
    """Whether `name`, given in place of a transport, is that of a runtime."""
    return name in NAMES


def kind(name: str) -> type[Runtime]:
    """The runtime class called `name`, whether or not its libraries are installed. Raises `UsageError`."""
    found: type[Runtime] = find("runtime", name, NAMES)
    return found


def load(name: str) -> type[Runtime]:
    """The same, ready to be used. Raises `UsageError` for an unknown name or a library that is not installed."""
    found = kind(name)
    check_installed(name, found.libraries)
    return found
