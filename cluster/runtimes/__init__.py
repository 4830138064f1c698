"""Runtimes: systems that execute the stages of a plan and carry their tensors themselves, without this project's nodes.

A runtime is one class and one line in `NAMES`. `kind` gives its class, which describes it, without importing its
library; the library is imported when the runtime starts.
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
    """Whether `name`, given in place of a transport's name, is the name of a runtime."""
    return name in NAMES


def kind(name: str) -> type[Runtime]:
    """The runtime class called `name`, whether or not its libraries are installed. Raises `UsageError`."""
    found: type[Runtime] = find("runtime", name, NAMES)
    return found


def load(name: str) -> type[Runtime]:
    """`kind(name)`, ready to be used. Raises `UsageError` for an unknown name or a library that is not installed."""
    found = kind(name)
    check_installed(name, found.libraries)
    return found
