"""The cost of each operation under an engine, in seconds measured in this process, and plans that balance these costs.

With `eager`, each operation is timed by itself. With a compiled engine, each operation is compiled to a function, and
the time of an empty function with as many tensors is subtracted. Operations that differ only in names and weights are
timed once. Operations that are compiled together take other times than by themselves, so `cut_by_cost` times the stages
of a plan as well.
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
from partitioning.plan import Plan, Stage
from partitioning.program import Program
from partitioning.steps import TensorRef, fill
from partitioning.strategies import make_plan
from partitioning.strategy_table import SLACKS

LEAST = 1e-6
"""The least cost of an operation in seconds: smaller differences from an empty function are noise."""
REPEATS = 10
"""Timed calls of each operation or stage."""
ATTEMPTS = 4
"""Most plans that `cut_by_cost` times."""

Call = Callable[[], object]


def measure(
    program: Program, inputs: Mapping[str, Any] | Sequence[Any], engine: str = "eager", repeats: int = REPEATS
) -> dict[str, float]:
    """Operation -> seconds of its fastest call in `repeats` rounds through all of them, at least `LEAST`.

    Other work on the machine only adds time, so the fastest call is the least disturbed one. `inputs` are arrays by
    name, or in the order of `program.graph.inputs`; their batch is measured. Raises `PartitionError` for inputs that an
    operation cannot take.
    """
    values = all_values(program, inputs)
    keys = {operation.name: _alike(program, operation, engine) for operation in program.graph.operations}
    one_each = {keys[operation.name]: operation for operation in reversed(program.graph.operations)}
    calls = {key: _call(engine, program, _stage(operation), values) for key, operation in one_each.items()}
    counts = set() if engine == "eager" else {len(operation.inputs) for operation in program.graph.operations}
    floors: dict[Hashable, Call] = {("floor", count): _empty_call(count) for count in counts}
    fastest = _rounds({**calls, **floors}, repeats)
    return {
        operation.name: max(LEAST, fastest[keys[operation.name]] - fastest.get(("floor", len(operation.inputs)), 0.0))
        for operation in program.graph.operations
    }


def cut_by_cost(
    program: Program,
    inputs: Mapping[str, Any] | Sequence[Any],
    engine: str,
    cut: str,
    groups: int,
    costs: Mapping[str, float],
) -> tuple[Plan, Mapping[str, float]]:
    """The plan of `cut`, one of `SLACKS`, into `groups`, and the costs on which it rests; `costs` are those of
    `measure`.

    The stages of a plan are timed. If the slowest exceeds the limit of `cut`, the costs of each stage's operations are
    scaled to the stage's seconds and the model is cut again. Of at most `ATTEMPTS` plans, the result is the first
    within the limit, or else the one whose slowest stage is fastest. Raises what `measure` and `make_plan` raise.
    """
    values = all_values(program, inputs)
    found: list[tuple[float, Plan, Mapping[str, float]]] = []
    for _ in range(ATTEMPTS):
        plan = make_plan(program.graph, "submodel", cut, groups, costs)
        if any(plan == earlier for _, earlier, _ in found):
            break
        seconds = _rounds({stage: _call(engine, program, stage, values) for stage in plan.stages}, REPEATS)
        costs = {
            name: costs[name] * seconds[stage] / sum(costs[each] for each in stage.operations)
            for stage in plan.stages
            for name in stage.operations
        }
        slowest = max(seconds.values())
        found.append((slowest, plan, costs))
        if slowest <= SLACKS[cut] * sum(seconds.values()) / len(seconds):
            return plan, costs
    return min(found, key=lambda attempt: attempt[0])[1:]


def all_values(program: Program, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The value of every tensor of the program. `inputs`: as in `measure`."""
    named = inputs if isinstance(inputs, Mapping) else dict(zip(program.graph.inputs, inputs, strict=True))
    values = {name: tf.convert_to_tensor(array) for name, array in named.items()}
    for operation in program.graph.operations:
        try:
            results = program.function(_stage(operation))([values[name] for name in operation.inputs])
        except Exception as error:  # A layer may raise anything.
            raise PartitionError(f"operation {operation.name!r} cannot take these inputs: {one_line(error)}") from error
        values.update(zip(operation.outputs, results, strict=True))
    return values


def _stage(operation: Operation) -> Stage:
    return Stage(operation.name, operation.inputs, operation.outputs, (operation.name,))


def _call(engine: str, program: Program, stage: Stage, values: Mapping[str, Any]) -> Call:
    executable = engines.build(engine, program, stage)
    tensors = [values[name] for name in stage.inputs]
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
