"""Steps: what executes one operation, and how the steps of a stage become one function.

A step calls the model's own Keras object with the arguments recorded when the model was built. What can be known
beforehand (where each tensor lies, which shape the arguments have, when a tensor is needed no more) is settled once,
so that a call adds about a microsecond to the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import keras

from partitioning.errors import PartitionError
from partitioning.plan import Stage

Tensors = Sequence[Any]
StageFunction = Callable[[Tensors], list[Any]]


@dataclass(frozen=True)
class TensorRef:
    """The place of a tensor in an argument template."""

    name: str


@dataclass(frozen=True)
class Step:
    """An operation that can be executed: `operation(*args, **kwargs)` once every `TensorRef` in them is filled in.

    `operation` is a Keras layer or operation; steps of a shared layer hold the same object.
    """

    name: str
    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def chain(stage: Stage, steps: Sequence[Step]) -> StageFunction:
    """What computes `stage.outputs` from `stage.inputs` by calling the steps in order; see `Program.function`."""
    slots = {name: index for index, name in enumerate(stage.inputs)}
    code = []
    for step, dead in zip(steps, _last_uses(steps, stage.outputs), strict=True):
        caller = _caller(step, _slots_of(stage, step.name, step.inputs, slots))
        for name in step.outputs:
            slots.setdefault(name, len(slots))
        places = tuple(slots[name] for name in step.outputs)
        code.append((caller, places[0] if len(places) == 1 else places, tuple(slots[name] for name in dead)))
    results = tuple(_slots_of(stage, "its outputs", stage.outputs, slots).values())
    return _runner(code, len(stage.inputs), len(slots), results)


def fill(template: Any, value_of: Callable[[TensorRef], Any]) -> Any:
    """The template with every `TensorRef` replaced; lists, tuples and dictionaries are walked, all else is constant."""
    if isinstance(template, TensorRef):
        return value_of(template)
    if isinstance(template, list):
        return [fill(item, value_of) for item in template]
    if isinstance(template, tuple):
        items = [fill(item, value_of) for item in template]
        return type(template)(*items) if hasattr(template, "_fields") else tuple(items)
    if isinstance(template, dict):
        return {key: fill(item, value_of) for key, item in template.items()}
    return template


def _last_uses(steps: Sequence[Step], outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """For each step, the tensors that nothing needs after it."""
    seen = set(outputs)
    dead = []
    for step in reversed(steps):
        names = tuple(dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name not in seen))
        seen.update(names)
        dead.append(names)
    return dead[::-1]


def _slots_of(stage: Stage, who: str, names: Iterable[str], slots: Mapping[str, int]) -> dict[str, int]:
    for name in names:
        if name not in slots:
            raise PartitionError(
                f"stage {stage.name!r}: {who} needs tensor {name!r}, which neither comes in nor is made"
            )
    return {name: slots[name] for name in names}


def _caller(step: Step, slots: Mapping[str, int]) -> Callable[[list[Any]], Any]:
    """What calls the operation with the values in their slots; the usual shapes of arguments have a shortcut."""
    operation, args, kwargs = step.operation, step.args, dict(step.kwargs)
    if not kwargs and len(args) == 1 and isinstance(args[0], TensorRef):
        only = slots[args[0].name]
        return lambda values: operation(values[only])
    if not kwargs and len(args) > 1 and all(isinstance(arg, TensorRef) for arg in args):
        several = itemgetter(*(slots[arg.name] for arg in args))
        return lambda values: operation(*several(values))
    if not kwargs and len(args) == 1 and _is_list_of_tensors(args[0]):
        listed = itemgetter(*(slots[arg.name] for arg in args[0]))
        return lambda values: operation(list(listed(values)))

    def general(values: list[Any]) -> Any:
        ready, named = fill((args, kwargs), lambda tensor: values[slots[tensor.name]])
        return operation(*ready, **named)

    return general


def _is_list_of_tensors(value: Any) -> bool:
    return type(value) is list and len(value) > 1 and all(isinstance(item, TensorRef) for item in value)


def _runner(
    code: Sequence[tuple[Callable[[list[Any]], Any], int | tuple[int, ...], tuple[int, ...]]],
    taken: int,
    size: int,
    results: tuple[int, ...],
) -> StageFunction:
    empty = [None] * (size - taken)

    def run(tensors: Tensors) -> list[Any]:
        if len(tensors) != taken:
            raise ValueError(f"{len(tensors)} tensors given to a stage that takes {taken}")
        values = [*tensors, *empty]
        for call, place, dead in code:
            value = call(values)
            if type(place) is int:
                values[place] = value if not isinstance(value, list | tuple | dict) else keras.tree.flatten(value)[0]
            else:
                for index, item in zip(place, keras.tree.flatten(value), strict=True):  # type: ignore[arg-type]
                    values[index] = item
            for index in dead:
                values[index] = None
        return [values[index] for index in results]

    return run
