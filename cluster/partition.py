"""A plan with its placement, and the files that hold its portions.

    FOLDER/<partition>/partition.json     the plan, the placement and the engines
    FOLDER/<partition>/server-<i>/        the operations and weights of server i (`partitioning.archive`)

A node reads these files below the folder that its launcher named. No message carries a path or a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from partitioning.engine_table import is_remote
from partitioning.errors import PartitionError
from partitioning.placement import Placement
from partitioning.plan import Plan, Stage

if TYPE_CHECKING:
    from partitioning.program import Program


@dataclass(frozen=True, eq=False)
class Partition:
    """A plan, the placement of its stages on servers, and the engines that execute them."""

    name: str
    plan: Plan
    placement: Placement
    engines: tuple[str, ...]

    @cached_property
    def servers(self) -> int:
        return max(self.placement.values()) + 1

    def portion(self, server: int) -> tuple[Stage, ...]:
        """The stages of one server, producers before consumers."""
        return tuple(stage for stage in self.plan.stages if self.placement[stage.name] == server)

    def awaited(self, server: int) -> tuple[str, ...]:
        """The names of the inputs of the server's stages, each once."""
        return tuple(dict.fromkeys(tensor for stage in self.portion(server) for tensor in stage.inputs))

    def destinations(self, tensor: str, local_calls: bool) -> frozenset[int]:
        """The servers to which `tensor` is sent. With `local_calls`, the server that produces it is not among them."""
        producer = self.plan.edges[tensor].producer
        if producer is None or not local_calls:
            return self.consumers[tensor]
        return self.consumers[tensor] - {self.placement[producer]}

    def messages(self, tensors: tuple[str, ...], local_calls: bool, send: str) -> list[tuple[int, tuple[str, ...]]]:
        """(server, tensor names) of each message that brings `tensors` to every server that awaits them.

        `send` is `bundle` (one message for each server) or `tensor` (one message for each tensor and server).
        """
        key = (tensors, local_calls, send)
        if (known := self._messages.get(key)) is None:
            to = {name: self.destinations(name, local_calls) for name in tensors}
            if send == "tensor":
                known = [(server, (name,)) for name, servers in to.items() for server in sorted(servers)]
            else:
                servers = sorted(frozenset().union(*to.values()))
                known = [(server, tuple(name for name in to if server in to[name])) for server in servers]
            self._messages[key] = known
        return known

    @cached_property
    def _messages(self) -> dict[tuple[tuple[str, ...], bool, str], list[tuple[int, tuple[str, ...]]]]:
        """Cached results of `messages`, since the same few tensors leave a server in every request."""
        return {}

    @cached_property
    def consumers(self) -> Mapping[str, frozenset[int]]:
        """Tensor -> the servers with a stage that awaits it."""
        return {
            name: frozenset(self.placement[stage] for stage in edge.consumers) for name, edge in self.plan.edges.items()
        }


def export(program: Program, partition: Partition, folder: Path) -> None:
    """Write `partition` and the portion of each of its servers below `folder`."""
    from partitioning import archive

    home = folder / partition.name
    home.mkdir(parents=True, exist_ok=True)
    record = {
        "plan": json.loads(partition.plan.to_json()),
        "placement": dict(partition.placement),
        "engines": list(partition.engines),
    }
    (home / "partition.json").write_text(json.dumps(record), encoding="utf-8")
    if all(is_remote(engine) for engine in partition.engines):
        return  # the nodes need no weights: model servers hold them
    for server in range(partition.servers):
        operations = [operation for stage in partition.portion(server) for operation in stage.operations]
        archive.export(program, operations, home / f"server-{server}")


def read_partitions(files: Iterable[Path]) -> Iterator[Partition]:
    """The partition in each of `files` (each a `partition.json`). Raises `PartitionError` for a file without one."""
    for path in sorted(files):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            plan = Plan.from_json(json.dumps(record["plan"]))
            yield Partition(path.parent.name, plan, record["placement"], tuple(record["engines"]))
        except (KeyError, TypeError, ValueError) as error:
            text = f"{path} holds no partition ({type(error).__name__}: {error}); export it again"
            raise PartitionError(text) from error
