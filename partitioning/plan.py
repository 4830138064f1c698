"""Plans: the operations of each stage, and the tensors that cross between stages. Imports no TensorFlow.

A cut is two lists of tensor names: the inputs and the outputs of a stage. The other fields of an edge (shape, dtype,
producer, consumers) are derived from the graph. `Plan.outputs` names the model's outputs: a stage without successors is
not necessarily the last one, since its successors may be down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
from msgspec import Struct

from partitioning.errors import PartitionError
from partitioning.graph import ITEMSIZES, Graph, TensorInfo


class PlanError(PartitionError):
    """A plan could not run; the text names the stage and the tensor."""


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """A unit of execution: its input tensors, the tensors that it sends, and its operations in execution order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[str, ...]


class Edge(TensorInfo, frozen=True, forbid_unknown_fields=True):
    """A tensor that stages take or send. `producer`: the stage that computes it, `None` for an input of the model.
    `consumers`: the stages that take it, in the plan's order."""

    producer: str | None
    consumers: tuple[str, ...]


class Plan(Struct, frozen=True, dict=True):
    """A partition of a graph into stages, listed in an order in which they can run.

    The constructor raises `PlanError` for a plan that could not run: a cycle, a missing producer, an unused output.
    """

    mode: str
    stages: tuple[Stage, ...]
    edges: Mapping[str, Edge]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_operations(self)
        _check_order(self)
        _check_outputs(self)
        _check_edges(self)

    @cached_property
    def by_name(self) -> Mapping[str, Stage]:
        """The stages by name."""
        return {stage.name: stage for stage in self.stages}

    def to_json(self) -> str:
        return json.dumps(msgspec.to_builtins(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan in `text`, which `to_json` wrote; older files call the edges `wires`. Raises `PlanError`."""
        try:
            record = json.loads(text)
            if isinstance(record, dict) and "wires" in record:
                record["edges"] = record.pop("wires")
            return msgspec.convert(record, cls)
        except (json.JSONDecodeError, msgspec.ValidationError, RecursionError) as error:
            if isinstance(error.__cause__, PlanError):
                raise error.__cause__ from None
            raise PlanError(f"this is no plan: {error}") from error


@dataclass(frozen=True)
class Cut:
    """The tensors that one stage sends, or the model's inputs (`stage` is `None`)."""

    stage: str | None
    edges: tuple[Edge, ...]

    @property
    def consumers(self) -> tuple[str, ...]:
        """The stages that take one of the tensors, each once."""
        return tuple(dict.fromkeys(name for edge in self.edges for name in edge.consumers))

    @property
    def nbytes(self) -> int:
        """Bytes at batch 1. A tensor counts once for each stage that takes it, since it is sent to each of them."""
        return sum(edge.nbytes * len(edge.consumers) for edge in self.edges)


def cut_table(plan: Plan) -> tuple[Cut, ...]:
    """The model's inputs, then the outputs of each stage, in the plan's order."""
    producers: Sequence[str | None] = [None, *(stage.name for stage in plan.stages)]
    return tuple(Cut(name, tuple(edge for edge in plan.edges.values() if edge.producer == name)) for name in producers)


def sent_bytes(plan: Plan) -> int:
    """Bytes between stages in one request at batch 1, without the model's inputs and outputs."""
    return sum(cut.nbytes for cut in cut_table(plan) if cut.stage is not None)


def build_plan(graph: Graph, numbers: Sequence[int], mode: str) -> Plan:
    """The plan in which the operation `graph.operations[i]` belongs to stage `numbers[i]`.

    Stage numbers may be any integers. Stages are sorted by number and named `stage-00`, `stage-01`, ...; in the mode
    `layer`, a stage of one operation has the name of the operation. Raises `PlanError` if an output of the graph is
    also an input, since no stage produces it.
    """
    if len(numbers) != len(graph.operations):
        raise PlanError(f"{len(numbers)} stage numbers for {len(graph.operations)} operations")
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(numbers):
        groups.setdefault(number, []).append(index)
    width = len(str(len(groups) - 1))
    names = {
        number: (
            graph.operations[groups[number][0]].name
            if mode == "layer" and len(groups[number]) == 1
            else f"stage-{order:0{width}d}"
        )
        for order, number in enumerate(sorted(groups))
    }
    producers: dict[str, str] = {}
    consumers: dict[str, dict[str, None]] = {}
    for operation, number in zip(graph.operations, numbers, strict=True):
        producers.update(dict.fromkeys(operation.outputs, names[number]))
        for tensor in operation.inputs:
            consumers.setdefault(tensor, {})[names[number]] = None
    order = {names[number]: position for position, number in enumerate(sorted(groups))}
    edges = {}
    for tensor, info in graph.tensors.items():
        producer = producers.get(tensor)
        outside = sorted((name for name in consumers.get(tensor, ()) if name != producer), key=order.__getitem__)
        if outside or tensor in graph.outputs:
            edges[tensor] = Edge(tensor, info.shape, info.dtype, producer, tuple(outside))
    stages = []
    for number in sorted(groups):
        name = names[number]
        stages.append(
            Stage(
                name,
                inputs=tuple(tensor for tensor, edge in edges.items() if name in edge.consumers),
                outputs=tuple(tensor for tensor, edge in edges.items() if edge.producer == name),
                operations=tuple(graph.operations[index].name for index in groups[number]),
            )
        )
    return Plan(mode, tuple(stages), edges, graph.inputs, graph.outputs)


def _check_operations(plan: Plan) -> None:
    owners: dict[str, str] = {}
    names: set[str] = set()
    for stage in plan.stages:
        if stage.name in names:
            raise PlanError(f"two stages are called {stage.name!r}")
        names.add(stage.name)
        for operation in stage.operations:
            if operation in owners:
                raise PlanError(f"operation {operation!r} is in stage {owners[operation]!r} and in {stage.name!r}")
            owners[operation] = stage.name


def _check_order(plan: Plan) -> None:
    ready = set(plan.inputs)
    for stage in plan.stages:
        if not stage.inputs:
            raise PlanError(f"stage {stage.name!r} takes no tensor, so no message would ever start it")
        for tensor in stage.inputs:
            if tensor not in ready:
                raise PlanError(f"stage {stage.name!r} needs tensor {tensor!r}, {_too_late(plan, tensor)}")
        if twice := ready.intersection(stage.outputs):
            raise PlanError(f"stage {stage.name!r} makes tensor {sorted(twice)[0]!r}, which exists already")
        ready.update(stage.outputs)


def _too_late(plan: Plan, tensor: str) -> str:
    makers = [stage.name for stage in plan.stages if tensor in stage.outputs]
    return f"which only stage {makers[0]!r} makes, later or in a cycle" if makers else "which no stage makes"


def _check_outputs(plan: Plan) -> None:
    made = {tensor for stage in plan.stages for tensor in stage.outputs}
    for tensor in plan.outputs:
        if tensor in plan.inputs:
            raise PlanError(f"the model's output {tensor!r} is also its input: no stage would produce it")
        if tensor not in made:
            raise PlanError(f"the model's output {tensor!r} is made by no stage")
    taken = {tensor for stage in plan.stages for tensor in stage.inputs}
    for stage in plan.stages:
        if not stage.outputs:
            raise PlanError(f"stage {stage.name!r} gives no tensor, so no stage needs it")
        for tensor in stage.outputs:
            if tensor not in taken and tensor not in plan.outputs:
                raise PlanError(f"no stage takes tensor {tensor!r} of stage {stage.name!r}, and it is no output")


def _check_edges(plan: Plan) -> None:
    """Check the edges against the stages: both name producers and consumers, so a plan from a file may contradict
    itself."""
    producers = {tensor: stage.name for stage in plan.stages for tensor in stage.outputs}
    consumers: dict[str, tuple[str, ...]] = dict.fromkeys(producers, ())
    for stage in plan.stages:
        for tensor in stage.inputs:
            consumers[tensor] = (*consumers.get(tensor, ()), stage.name)
    for tensor, takers in consumers.items():
        edge = plan.edges.get(tensor)
        if edge is None or (edge.name, edge.producer, edge.consumers) != (tensor, producers.get(tensor), takers):
            raise PlanError(f"the edge of tensor {tensor!r} contradicts the stages: {edge}")
        if edge.dtype not in ITEMSIZES:
            raise PlanError(f"tensor {tensor!r} has the dtype {edge.dtype!r}; valid: {', '.join(ITEMSIZES)}")
        if any(extent is not None and extent < 0 for extent in edge.shape):
            raise PlanError(f"tensor {tensor!r} has the shape {edge.shape}; extents are 0 or more, or null")
    if unused := plan.edges.keys() - consumers.keys():
        raise PlanError(f"the edge of tensor {min(unused)!r} belongs to no stage")
