"""Steps, which execute one operation each, and the function that executes the steps of a stage.

A step calls the model's own Keras object with the arguments that Keras recorded when the model was built. The slot of
each tensor, the shape of the arguments and the last use of each tensor are computed once, so that a call adds about a
microsecond to the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import keras
import tensorflow as tf

from partitioning.errors import PartitionError
from partitioning.keras_internals import mask_of, set_mask
from partitioning.plan import Stage

Tensors = Sequence[Any]
StageFunction = Callable[[Tensors], list[Any]]
ValueOf = Callable[[str], Any]
"""Name of a tensor -> its value."""


@dataclass(frozen=True)
class TensorRef:
    """Stands for a tensor in an argument template."""

    name: str


@dataclass(frozen=True)
class Masks:
    """The implicit masks of an operation. Each mask is a tensor with its own name."""

    taken: Mapping[str, str]
    """Tensor that the operation takes -> the mask that it reads from it."""
    given: Mapping[int, str]
    """Index of a flat result -> the mask that the operation attaches to it."""


@dataclass(frozen=True)
class Step:
    """An executable operation: `operation(*args, **kwargs)`, in which tensors replace every `TensorRef`.

    `operation` is a Keras layer or operation; the steps of a shared layer hold the same object. `masks` is `None` in a
    model without implicit masks; otherwise `inputs` and `outputs` include the masks' names.
    """

    name: str
    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    masks: Masks | None = None

    def call(self, value_of: ValueOf) -> list[Any]:
        """The values of `outputs`, in order."""
        args, kwargs = fill((self.args, dict(self.kwargs)), lambda tensor: self._argument(tensor.name, value_of))
        results: list[Any] = keras.tree.flatten(self.operation(*args, **kwargs))
        return results if self.masks is None else [*results, *(mask_of(results[index]) for index in self.masks.given)]

    def _argument(self, name: str, value_of: ValueOf) -> Any:
        """The tensor with exactly the mask that the operation reads; a copy, if its present mask is another."""
        value = value_of(name)
        if self.masks is None:
            return value
        mask = value_of(self.masks.taken[name]) if name in self.masks.taken else None
        if mask is None and mask_of(value) is None:
            return value
        value = tf.identity(value)
        set_mask(value, mask)
        return value


def chain(stage: Stage, steps: Sequence[Step]) -> StageFunction:
    """The function from `stage.inputs` to `stage.outputs` that calls the steps in order; see `Program.function`."""
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
    """The template with every `TensorRef` in its lists, tuples and dictionaries replaced."""
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
    """For each step, the tensors that no later step needs."""
    seen = set(outputs)
    dead = []
    for step in reversed(steps):
        names = tuple(dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name not in seen))
        seen.update(names)
        dead.append(names)
    return dead[::-1]


def _slots_of(stage: Stage, user: str, names: Iterable[str], slots: Mapping[str, int]) -> dict[str, int]:
    for name in names:
        if name not in slots:
            raise PartitionError(
                f"stage {stage.name!r}: {user} needs tensor {name!r}, which is neither an input nor made before"
            )
    return {name: slots[name] for name in names}


def _caller(step: Step, slots: Mapping[str, int]) -> Callable[[list[Any]], Any]:
    """The call of the operation with the values in their slots; frequent shapes of arguments have a shortcut."""
    operation, args = step.operation, step.args
    if not step.kwargs and step.masks is None and args:
        if len(args) == 1 and isinstance(args[0], TensorRef):
            only = slots[args[0].name]
            return lambda values: operation(values[only])
        if len(args) > 1 and all(isinstance(arg, TensorRef) for arg in args):
            several = itemgetter(*(slots[arg.name] for arg in args))
            return lambda values: operation(*several(values))
        if len(args) == 1 and _is_list_of_tensors(args[0]):
            listed = itemgetter(*(slots[arg.name] for arg in args[0]))
            return lambda values: operation(list(listed(values)))
    return lambda values: step.call(lambda name: values[slots[name]])


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
