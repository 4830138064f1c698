"""Programs: the graph of a Keras model together with what executes each of its operations.

The operations of the model itself are called, in order. No `keras.Model` is made per stage: calling one costs a few
tenths of a millisecond, and making one appends nodes to the layers that it is made of. The model that is read, be it
functional or Sequential, is left as it is; models inside it are flattened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from partitioning.errors import PartitionError
from partitioning.graph import ITEMSIZES, Graph, Operation, TensorInfo
from partitioning.keras_internals import Call, call_of, has_mask, inference_kwargs, is_functional
from partitioning.order import narrow_order, needed
from partitioning.plan import Stage
from partitioning.steps import StageFunction, Step, TensorRef, chain


@dataclass(frozen=True)
class Program:
    """A graph and a step for each of its operations, by name."""

    graph: Graph
    steps: Mapping[str, Step]

    def function(self, stage: Stage) -> StageFunction:
        """What computes `stage.outputs` from `stage.inputs`, both in the order of their names.

        It takes and gives TensorFlow tensors, eagerly or inside a `tf.function`. A tensor is let go after its last
        use. Raises `PartitionError` where the program cannot run the stage.
        """
        return chain(stage, [self._step(stage, name) for name in stage.operations])

    def portion(self, operations: Iterable[str]) -> Program:
        """The program of these operations alone: its inputs are what they need, its outputs what others need."""
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
        return Program(Graph(inside, tensors, tuple(taken), given), {op.name: self.steps[op.name] for op in inside})

    def _step(self, stage: Stage, name: str) -> Step:
        if name not in self.steps:
            raise PartitionError(f"stage {stage.name!r} has the operation {name!r}, which this program has not")
        return self.steps[name]


@dataclass(frozen=True)
class _Value:
    """What a symbolic tensor of the model is called here, and the shape that it has in this place of it."""

    name: str
    spec: Any


_Scope = dict[int, _Value]
"""`id` of a symbolic tensor -> its value. One scope a call of a model: the same inner tensors are others each time."""


@dataclass
class _Sink:
    """What reading collects."""

    steps: list[Step] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    def add_tensor(self, name: str, spec: Any) -> None:
        if name in self.tensors:
            raise PartitionError(f"two tensors of the model are called {name!r}; give the layers other names")
        self.tensors[name] = TensorInfo(name, tuple(spec.shape), keras.backend.standardize_dtype(spec.dtype))


def read(model: keras.Model) -> Program:
    """The program of a functional or a built Sequential model, which is not changed.

    An operation is called as its layer; the second call of a shared layer is `dense#1`, an operation of a model
    inside is `outer/inner`. A tensor is called as its operation, the k-th of several `name:k`, and an input of the
    model as its `InputLayer`. Operations on which no output depends are left out.

    Raises `PartitionError` for a model that has no such graph or whose tensors cannot travel one by one.
    """
    _check_model(model)
    sink, scope = _Sink(), _Scope()
    for tensor in model.inputs:
        scope[id(tensor)] = _Value(call_of(tensor).operation.name, tensor)
        _check_dense(scope[id(tensor)].name, tensor)
        _check_tensor(scope[id(tensor)].name, tensor)
        sink.add_tensor(scope[id(tensor)].name, tensor)
    inputs = tuple(scope[id(tensor)].name for tensor in model.inputs)
    _read_graph(model.inputs, model.outputs, scope, "", sink)
    return _program(sink, inputs, tuple(scope[id(tensor)].name for tensor in model.outputs))


def _program(sink: _Sink, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Program:
    records = [Operation(step.name, _kind(step), step.inputs, step.outputs) for step in sink.steps]
    order = narrow_order(needed(records, outputs), sink.tensors)
    alive = [*inputs, *(tensor for operation in order for tensor in operation.outputs)]
    by_name = {step.name: step for step in sink.steps}
    graph = Graph(tuple(order), {name: sink.tensors[name] for name in alive}, inputs, outputs)
    return Program(graph, {operation.name: by_name[operation.name] for operation in order})


def _kind(step: Step) -> str:
    return type(step.operation).__name__


def _read_graph(inputs: Sequence[Any], outputs: Sequence[Any], scope: _Scope, prefix: str, sink: _Sink) -> None:
    """Adds the operations between two lists of symbolic tensors, and the names of their outputs to `scope`."""
    calls = _calls_between(inputs, outputs)
    for call, name in zip(calls, _names(calls), strict=True):
        if _can_flatten(call, scope):
            _read_inside(call, scope, f"{prefix}{name}/", sink)
        else:
            _read_step(call, scope, f"{prefix}{name}", sink)


def _read_inside(call: Call, scope: _Scope, prefix: str, sink: _Sink) -> None:
    model = call.operation
    inner = {id(x): scope[id(given)] for x, given in zip(model.inputs, call.inputs, strict=True)}
    _read_graph(model.inputs, model.outputs, inner, prefix, sink)
    for outside, inside in zip(call.outputs, model.outputs, strict=True):
        scope[id(outside)] = inner[id(inside)]


def _read_step(call: Call, scope: _Scope, name: str, sink: _Sink) -> None:
    kwargs = inference_kwargs(call.operation, call.kwargs)
    args, kwargs = keras.tree.map_structure(lambda value: _reference(value, scope), (call.args, kwargs))
    taken = tuple(dict.fromkeys(scope[id(x)].name for x in call.inputs))
    single = len(call.outputs) == 1
    given = tuple(name if single else f"{name}:{index}" for index in range(len(call.outputs)))
    for tensor, spec, label in zip(call.outputs, _specs(call, scope), given, strict=True):
        _check_tensor(label, tensor)
        scope[id(tensor)] = _Value(label, spec)
        sink.add_tensor(label, spec)
    sink.steps.append(Step(name, call.operation, args, kwargs, taken, given))


def _reference(value: Any, scope: _Scope) -> Any:
    return TensorRef(scope[id(value)].name) if isinstance(value, keras.KerasTensor) else value


def _specs(call: Call, scope: _Scope) -> Sequence[Any]:
    """Shapes of a call's outputs: as recorded, unless a model inside is called with another shape than its own."""
    if all(tuple(scope[id(x)].spec.shape) == tuple(x.shape) for x in call.inputs):
        return call.outputs
    swap = {id(x): scope[id(x)].spec for x in call.inputs}
    args, kwargs = keras.tree.map_structure(lambda value: swap.get(id(value), value), (call.args, dict(call.kwargs)))
    flat: Sequence[Any] = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    return flat


def _can_flatten(call: Call, scope: _Scope) -> bool:
    """Whether a model inside takes its inputs as they come (rank, type, no mask); else it stays one operation."""
    if not is_functional(call.operation) or any(
        value is not None for key, value in call.kwargs.items() if key != "training"
    ):
        return False
    own, given = call.operation.inputs, call.inputs
    if len(call.args) != 1 or len(own) != len(given) or isinstance(call.args[0], dict):
        return False
    return all(len(x.shape) == len(y.shape) and x.dtype == y.dtype for x, y in zip(own, given, strict=True))


def _names(calls: Sequence[Call]) -> list[str]:
    """The operation's name, and `name#k` for its k-th further call in the order in which the calls were written."""
    indices: dict[int, list[int]] = {}
    for call in calls:
        indices.setdefault(id(call.operation), []).append(call.index)
    names = []
    for call in calls:
        rank = sorted(indices[id(call.operation)]).index(call.index)
        names.append(f"{call.operation.name}#{rank}" if rank else call.operation.name)
    return names


def _calls_between(inputs: Iterable[Any], outputs: Iterable[Any]) -> list[Call]:
    """Every call that leads from the inputs to the outputs, in an order in which they can run, branch by branch.

    Depth first from the outputs, without recursion: NASNetLarge is a thousand operations deep.
    """
    done = {id(tensor) for tensor in inputs}
    calls: list[Call] = []
    pending = list(outputs)[::-1]
    while pending:
        tensor = pending[-1]
        if id(tensor) in done:
            pending.pop()
            continue
        call = call_of(tensor)
        waiting = [x for x in call.inputs if id(x) not in done]
        if waiting:
            pending.extend(waiting[::-1])
        else:
            calls.append(call)
            done.update(id(x) for x in call.outputs)
    return calls


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise PartitionError(f"{type(model).__name__} is no Keras model")
    if isinstance(model, keras.Sequential) and not model.built:
        raise PartitionError(
            f"the Sequential model {model.name!r} is not built: begin it with keras.Input(shape), or call it once"
        )
    if not is_functional(model):
        raise PartitionError(
            f"the model {model.name!r} ({type(model).__name__}) has a call() of its own and its graph is not known; "
            "write it with the functional API: keras.Model(inputs, outputs)"
        )


def _check_dense(name: str, tensor: Any) -> None:
    """For inputs only: further on the flags mislead, Keras calls the result of `x * 0.5` sparse."""
    if tensor.sparse or tensor.ragged:
        raise PartitionError(f"input {name!r} is sparse or ragged; only dense tensors can cross a cut")


def _check_tensor(name: str, tensor: Any) -> None:
    if has_mask(tensor):
        raise PartitionError(
            f"tensor {name!r} carries an implicit Keras mask, which a cut would lose; "
            "build the model without mask_zero=True or Masking, and pass a mask as a tensor (mask=...)"
        )
    if keras.backend.standardize_dtype(tensor.dtype) not in ITEMSIZES:
        raise PartitionError(f"tensor {name!r} holds {tensor.dtype} values; only numbers can cross a cut")
