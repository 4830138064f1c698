"""The engines by name. Imports no TensorFlow.

`partitioning.engines` builds the local ones; `cluster.model_servers` calls the remote ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """A way to execute a stage."""

    description: str
    """A clause for reports."""
    remote: bool = False
    """Whether a model server executes the stage; the node then needs no weights."""
    local: str = ""
    """Of a remote engine: the local engine that executes the same function in the caller's process."""


ENGINES: Mapping[str, Engine] = {
    "eager": Engine("each operation is called from Python, as the document timed it"),
    "graph": Engine("a stage is traced once into a `tf.function`"),
    "frozen": Engine("a stage is traced, and its variables are folded into constants"),
    "tfserving": Engine("a stage is a SavedModel in a model server, called over gRPC", remote=True, local="graph"),
    "tfserving-rest": Engine(
        "a stage is a SavedModel in a model server, called over REST with JSON", remote=True, local="graph"
    ),
}


EMPTY = "empty"
"""The engine of stages that compute nothing and return zeros of the right shapes. Every node has it, for the ladder; no
cell is measured with it, so `ENGINES` does not list it."""


def is_remote(name: str) -> bool:
    """Whether model servers execute the stages of that engine. False for an unknown name."""
    return name in ENGINES and ENGINES[name].remote


def local_engine(name: str) -> str:
    """The engine that executes in one process what `name` executes: `name` itself unless it is remote."""
    return ENGINES[name].local if is_remote(name) else name
