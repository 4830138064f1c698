"""The cost of each operation under an engine: seconds, measured in this process.

With `eager`, each operation is timed by itself. With a compiled engine, each operation is compiled to a function, and
the time of an empty function with as many tensors is subtracted. Compiling several operations together saves time. The
costs do not reflect this, but their shares are accurate enough for balancing. Operations that differ only in names and
weights are timed once.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from partitioning import engines
from partitioning.errors import PartitionError, one_line
from partitioning.graph import Operation
from partitioning.plan import Stage
from partitioning.program import Program
from partitioning.steps import TensorRef, fill

LEAST = 1e-6
"""The least cost of an operation in seconds: smaller differences from an empty function are noise."""

Call = Callable[[], object]


def measure(
    program: Program, inputs: Mapping[str, Any] | Sequence[Any], engine: str = "eager", repeats: int = 10
) -> dict[str, float]:
    """Operation -> seconds of its fastest call in `repeats` rounds through all of them, at least `LEAST`.

    Other work on the machine only adds time, so the fastest call is the least disturbed one. `inputs` are arrays by
    name, or in the order of `program.graph.inputs`; their batch is measured. Raises `PartitionError` for inputs that an
    operation cannot take.
    """
    named = inputs if isinstance(inputs, Mapping) else dict(zip(program.graph.inputs, inputs, strict=True))
    values = all_values(program, named)
    keys = {operation.name: _alike(program, operation, engine) for operation in program.graph.operations}
    one_each = {keys[operation.name]: operation for operation in reversed(program.graph.operations)}
    calls = {key: _call(engine, program, operation, values) for key, operation in one_each.items()}
    counts = set() if engine == "eager" else {len(operation.inputs) for operation in program.graph.operations}
    floors: dict[Hashable, Call] = {("floor", count): _empty_call(count) for count in counts}
    fastest = _rounds({**calls, **floors}, repeats)
    return {
        operation.name: max(LEAST, fastest[keys[operation.name]] - fastest.get(("floor", len(operation.inputs)), 0.0))
        for operation in program.graph.operations
    }


def all_values(program: Program, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every tensor of the program."""
    values = {name: tf.convert_to_tensor(array) for name, array in inputs.items()}
    for operation in program.graph.operations:
        try:
            results = program.function(_stage(operation))([values[name] for name in operation.inputs])
        except Exception as error:  # A layer may raise anything.
            raise PartitionError(f"operation {operation.name!r} cannot take these inputs: {one_line(error)}") from error
        values.update(zip(operation.outputs, results, strict=True))
    return values


def _stage(operation: Operation) -> Stage:
    return Stage(operation.name, operation.inputs, operation.outputs, (operation.name,))


def _call(engine: str, program: Program, operation: Operation, values: Mapping[str, Any]) -> Call:
    executable = engines.build(engine, program, _stage(operation))
    tensors = [values[name] for name in operation.inputs]
    return lambda: executable(tensors)


def _alike(program: Program, operation: Operation, engine: str) -> Hashable:
    """A key that is equal for operations of the same kind, configuration, arguments and tensor shapes, since these
    operations cost the same."""
    step = program.steps[operation.name]
    if engine == "eager" or not isinstance(step.operation, keras.Layer):
        return operation.name
    config = {key: value for key, value in step.operation.get_config().items() if key != "name"}

    def kind_of(tensor: TensorRef) -> str:
        info = program.graph.tensors[tensor.name]
        return f"{info.dtype}{info.shape}"

    return repr((type(step.operation), config, fill((step.args, dict(step.kwargs)), kind_of)))


def _empty_call(count: int) -> Call:
    """A call of a compiled function that takes `count` tensors and does nothing."""
    tensors = [tf.zeros([1, 1])] * count
    signature = [tf.TensorSpec([None, 1])] * count
    concrete = tf.function(lambda *given: [tf.identity(given[0])], input_signature=signature).get_concrete_function()
    return lambda: concrete.inference_fn.call_flat(*tensors)


def _rounds(calls: Mapping[Hashable, Call], repeats: int) -> dict[Hashable, float]:
    """Seconds of each call's fastest run. Calls are timed in rounds, so that a disturbance affects all of them."""
    fastest = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call()
    with no_collection():
        for _ in range(repeats):
            for key, call in calls.items():
                begin = time.perf_counter()
                call()
                fastest[key] = min(fastest[key], time.perf_counter() - begin)
    return fastest


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection during the block: with a model in the process, a collection takes about 170 ms."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
