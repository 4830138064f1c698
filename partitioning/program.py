"""Programs: the graph of a Keras model, with a step for each of its operations.

A stage calls the model's own operations, in order. A stage is not a `keras.Model`: each call of a `keras.Model` costs a
few tenths of a millisecond, and making one appends nodes to its layers. Reading a model does not change it; nested
models are flattened.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from partitioning.calls import can_flatten, names_of
from partitioning.checks import check_absent, check_model, check_stateless
from partitioning.client_side import STRING, ClientSide, split
from partitioning.errors import PartitionError, one_line
from partitioning.graph import ITEMSIZES, Graph, Operation, TensorInfo
from partitioning.keras_internals import (
    Call,
    call_of,
    calls_between,
    execution_order,
    inference_kwargs,
    input_structure,
    is_functional,
    legal_scopes,
    may_be_misrecorded,
    may_mask,
)
from partitioning.limits import limits
from partitioning.order import narrow_order, needed
from partitioning.plan import Stage
from partitioning.steps import StageFunction, Step, TensorRef, chain
from partitioning.tracing import trace


@dataclass(frozen=True)
class Program:
    """The operations that servers run: a graph, and a step for each operation, by name.

    `client` is the part of the model that the client runs, `model` the whole model; both are `None` in a portion. A
    process that loads a portion first imports the modules `imports`; it runs pickled code in the portion if `trust` is
    set.
    """

    graph: Graph
    steps: Mapping[str, Step]
    client: ClientSide | None = None
    imports: tuple[str, ...] = ()
    trust: bool = False
    model: keras.Model | None = None

    def function(self, stage: Stage) -> StageFunction:
        """The function that computes `stage.outputs` from `stage.inputs`, in their orders.

        It takes and returns TensorFlow tensors, eagerly or inside a `tf.function`. A tensor is released after its last
        use. Raises `PartitionError` if the program cannot run the stage.
        """
        for name in stage.operations:
            if name not in self.steps:
                raise PartitionError(f"stage {stage.name!r} has the operation {name!r}, which this program has not")
        return chain(stage, [self.steps[name] for name in stage.operations])

    @contextmanager
    def tracing(self, stage: Stage) -> Iterator[None]:
        """In the block, names of layers are legal scopes, and any exception becomes a `PartitionError`."""
        try:
            with legal_scopes(self.steps[name].operation for name in stage.operations):
                yield
        except Exception as error:  # A layer may raise anything.
            text = f"stage {stage.name!r} cannot be compiled ({one_line(error)}); use the engine eager"
            raise PartitionError(text) from error

    def portion(self, operations: Iterable[str]) -> Program:
        """The program of these operations alone: its inputs are the tensors that they need, its outputs the tensors
        that other operations need or that the graph returns. Raises `PartitionError` for an operation that the program
        lacks."""
        wanted = set(operations)
        if missing := wanted.difference(self.steps):
            raise PartitionError(f"no operation {sorted(missing)[0]!r} in this program")
        inside = tuple(op for op in self.graph.operations if op.name in wanted)
        made = {tensor for op in inside for tensor in op.outputs}
        taken = {tensor: None for op in inside for tensor in op.inputs if tensor not in made}
        outside = {tensor for op in self.graph.operations if op.name not in wanted for tensor in op.inputs}
        given = tuple(
            tensor for op in inside for tensor in op.outputs if tensor in outside or tensor in self.graph.outputs
        )
        tensors = {name: info for name, info in self.graph.tensors.items() if name in made or name in taken}
        graph = Graph(inside, tensors, tuple(taken), given)
        return Program(graph, {op.name: self.steps[op.name] for op in inside}, None, self.imports, self.trust)


@dataclass(frozen=True)
class _Value:
    """The name of a symbolic tensor in the graph, and a spec with its shape and dtype at this place of the model."""

    name: str
    spec: Any


_Scope = dict[int, _Value | None]
"""`id` of a symbolic tensor -> its value, `None` for an absent input. Each call of a nested model has its own scope."""


@dataclass
class _Sink:
    """The steps and tensors read so far. `ranks`: the steps' positions in the order in which Keras runs the model."""

    steps: list[Step] = field(default_factory=list)
    ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    def add_tensor(self, name: str, spec: Any) -> None:
        if name in self.tensors:
            raise PartitionError(f"two tensors of the model are called {name!r}; give the layers other names")
        dtype = keras.backend.standardize_dtype(spec.dtype)
        if dtype not in ITEMSIZES and dtype != STRING:
            raise PartitionError(f"tensor {name!r} has the dtype {dtype}; valid: {', '.join(ITEMSIZES)}, {STRING}")
        self.tensors[name] = TensorInfo(name, tuple(spec.shape), dtype)


def read(
    model: keras.Model, imports: Sequence[str] = (), *, trust: bool = False, absent: Collection[str] = ()
) -> Program:
    """The program of a functional or a built Sequential model, which is not changed.

    An operation has the name of its layer; the second call of a shared layer is `dense#1`, and an operation of a nested
    model is `outer/inner`. A tensor has the name of its operation, or `name:k` if it is the k-th of several; an input
    of the model has the name of its `InputLayer`, and the implicit mask of the tensor `x` is `x:mask`. Operations on
    which no output depends are left out. `imports` and `trust` are the values with which the model was loaded. In place
    of the optional inputs `absent`, operations get `None`.

    Raises `PartitionError` for a model that has no such graph, that keeps a state between requests, whose tensors
    cannot cross a cut, or that cannot do without an absent input.
    """
    check_model(model)
    check_absent(model, absent)
    sink, scope = _Sink(), _Scope()
    for tensor in model.inputs:
        name = call_of(tensor).operation.name
        if name in absent:
            scope[id(tensor)] = None
            continue
        scope[id(tensor)] = _Value(name, tensor)
        # Only inputs are checked, since Keras also marks the result of `x * 0.5` as sparse.
        if tensor.sparse or tensor.ragged:
            raise PartitionError(f"input {name!r} is sparse or ragged; only dense tensors can cross a cut")
        sink.add_tensor(name, tensor)
    inputs = tuple(value.name for value in scope.values() if value)
    _read_graph(model, scope, "", (), sink)
    names = {key: value.name if value else None for key, value in scope.items()}
    outputs = tuple(name for tensor in model.outputs if (name := names[id(tensor)]))
    if len(outputs) < len(model.outputs):
        raise PartitionError("--absent: an output of the model is an absent input; leave --absent out")
    structure = keras.tree.map_structure(lambda tensor: names[id(tensor)], input_structure(model))
    steps = _traced(sink, inputs)
    alive = {op.name for op in needed([_record(step) for step in steps], outputs)}
    before, at_servers, after = split([step for step in steps if step.name in alive], sink.tensors, inputs)
    infos = tuple(sink.tensors[name] for name in inputs)
    client = ClientSide(infos, outputs, structure, before, after, limits(steps, infos))
    return Program(*_at_servers(at_servers, client, sink.tensors), client, tuple(imports), trust, model)


def _at_servers(
    steps: Sequence[Step], client: ClientSide, tensors: Mapping[str, TensorInfo]
) -> tuple[Graph, dict[str, Step]]:
    """The graph of the steps that servers run, and these steps in the graph's order."""
    made = {name for step in steps for name in step.outputs}
    early = {name for step in client.before for name in step.outputs}
    late = [name for step in client.after for name in step.inputs]
    taken = (*(name for step in steps for name in step.inputs), *late)
    numeric = (info.name for info in client.inputs if info.dtype != STRING)
    inputs = tuple(dict.fromkeys((*numeric, *(name for name in taken if name in early))))
    outputs = tuple(dict.fromkeys(name for name in (*client.outputs, *late) if name in made))
    order = narrow_order([_record(step) for step in steps], tensors)
    kept = (*inputs, *(tensor for operation in order for tensor in operation.outputs))
    by_name = {step.name: step for step in steps}
    graph = Graph(tuple(order), {name: tensors[name] for name in kept}, inputs, outputs)
    return graph, {operation.name: by_name[operation.name] for operation in order}


def _traced(sink: _Sink, inputs: Sequence[str]) -> list[Step]:
    """The steps in the order in which they were read; a trace, if one is needed, adds masks and corrects tensors.

    Without masks, a model that cannot be traced keeps its tensors as recorded: it may still run eagerly.
    """
    masked = any(may_mask(step.operation) for step in sink.steps)
    unsure = any(may_be_misrecorded(step.operation) for step in sink.steps)
    # Keras records the parts of complex numbers as complex.
    if not masked and not unsure and not any(info.dtype.startswith("complex") for info in sink.tensors.values()):
        return sink.steps
    ranked = sorted(sink.steps, key=lambda step: sink.ranks[step.name])
    try:
        steps, found = trace(ranked, inputs, sink.tensors)
    except PartitionError:
        if masked:
            raise
        return sink.steps
    sink.tensors |= found
    by_name = {step.name: step for step in steps}
    return [by_name[step.name] for step in sink.steps]


def _record(step: Step) -> Operation:
    return Operation(step.name, type(step.operation).__name__, step.inputs, step.outputs)


def _read_graph(model: keras.Model, scope: _Scope, prefix: str, rank: tuple[int, ...], sink: _Sink) -> None:
    """Add the operations of a functional model to `sink`, and the names of their outputs to `scope`."""
    calls = calls_between(model.inputs, model.outputs)
    places = execution_order(model)
    for call, name in zip(calls, names_of(calls), strict=True):
        place = (*rank, places[id(call.operation), call.index])
        if not can_flatten(call):
            _read_step(call, scope, f"{prefix}{name}", sink)
            sink.ranks[f"{prefix}{name}"] = place
            continue
        inside = call.operation
        inner = {id(x): scope[id(given)] for x, given in zip(inside.inputs, call.inputs, strict=True)}
        _read_graph(inside, inner, f"{prefix}{name}/", place, sink)
        scope.update((id(x), inner[id(y)]) for x, y in zip(call.outputs, inside.outputs, strict=True))


def _read_step(call: Call, scope: _Scope, name: str, sink: _Sink) -> None:
    check_stateless(call.operation, name)

    def reference(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        given = scope[id(value)]
        return TensorRef(given.name) if given else None

    kwargs = inference_kwargs(call.operation, call.kwargs)
    args, kwargs = keras.tree.map_structure(reference, (call.args, kwargs))
    taken = tuple(dict.fromkeys(value.name for x in call.inputs if (value := scope[id(x)])))
    single = len(call.outputs) == 1
    given = tuple(name if single else f"{name}:{index}" for index in range(len(call.outputs)))
    for tensor, spec, label in zip(call.outputs, _specs(call, scope, name), given, strict=True):
        scope[id(tensor)] = _Value(label, spec)
        sink.add_tensor(label, spec)
    sink.steps.append(Step(name, call.operation, args, kwargs, taken, given))


def _specs(call: Call, scope: _Scope, name: str) -> Sequence[Any]:
    """The specs of a call's outputs.

    They are recomputed if a nested model is called with a shape other than its own, or if an input of the layer is
    absent.
    """
    given: dict[int, Any] = {id(x): value.spec if (value := scope[id(x)]) else None for x in call.inputs}
    lacks = None in given.values()
    if lacks and is_functional(call.operation):
        return call.outputs  # Keras cannot recompute them.
    if not lacks and all(tuple(given[id(x)].shape) == tuple(x.shape) for x in call.inputs):
        return call.outputs
    args, kwargs = keras.tree.map_structure(lambda value: given.get(id(value), value), (call.args, dict(call.kwargs)))
    try:
        flat: Sequence[Any] = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    except Exception as error:  # A layer may raise anything.
        if not lacks:
            raise
        reason = f"operation {name!r} cannot do without the absent input: {one_line(error)}"
        raise PartitionError(f"--absent: {reason}; give this input") from error
    return flat
