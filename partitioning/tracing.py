"""Turns implicit masks into tensors with their own names, so that they can cross a cut.

Keras attaches a mask (`Embedding(mask_zero=True)`, `Masking`) to a tensor as an attribute. Later layers read it there,
and attention layers remove it from their arguments. Attributes do not cross a cut, and the mask that a layer reads may
depend on the order in which Keras runs the model. Keras records some masks as arguments (for layers with one tensor and
no other argument); these masks are tensors of the graph already. To find the other masks, the steps are traced once in
Keras's order, and each step's masks are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from partitioning.errors import PartitionError, one_line
from partitioning.graph import TensorInfo
from partitioning.keras_internals import is_foreign, legal_scopes, mask_of, set_mask, sublayers
from partitioning.steps import Masks, Step, fill


def trace(
    steps: Sequence[Step], inputs: Sequence[str], tensors: Mapping[str, TensorInfo]
) -> tuple[list[Step], dict[str, TensorInfo]]:
    """The steps (in the order in which Keras runs them) with their masks, and all tensors by name, as traced.

    If a step returns None although Keras has recorded a tensor, steps that take it get None, without an edge.
    The mask that an operation attaches to its output `x` is the tensor `x:mask`. `inputs` are the model's inputs, which
    have no masks. Raises `PartitionError` for a model that TensorFlow cannot trace.
    """
    found: dict[str, Masks] = {}
    infos = dict(tensors)
    values: dict[str, Any] = {}

    def run(*given: Any) -> Any:
        values.update(zip(inputs, given, strict=True))
        labels = {id(value): name for name, value in values.items()}
        for step in steps:
            found[step.name] = _traced(step, values, labels, infos)
        return list(given)

    signature = [tf.TensorSpec(tensors[name].shape, tensors[name].dtype) for name in inputs]
    try:
        with legal_scopes(step.operation for step in steps):
            tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
    except Exception as error:  # A layer may raise anything.
        last = steps[len(found)].name if len(found) < len(steps) else ""
        raise PartitionError(
            f"the operation {last!r} cannot be traced, which its masks require: {one_line(error)}"
        ) from error
    used = {mask for masks in found.values() for mask in masks.taken.values()}
    nothing = {name for name, value in values.items() if value is None}
    return [_extended(_without(step, nothing), found[step.name], used) for step in steps], infos


def _traced(step: Step, values: dict[str, Any], labels: dict[int, str], infos: dict[str, TensorInfo]) -> Masks:
    """Run one step on the tensors of a graph, as Keras would, and return its masks.

    Adds the results to `values` (tensors by name). `labels`: id of a graph tensor -> its name, for values and masks.
    """
    objects = {id(values[name]): values[name] for name in step.inputs}
    own = {key: mask_of(value) for key, value in objects.items()}
    # The step reads copies of the masks. If a copy has no consumers, the step did not use the mask.
    copies = {key: tf.identity(mask) for key, mask in own.items() if mask is not None}
    for key, copy in copies.items():
        set_mask(objects[key], copy)
    args, kwargs = fill((step.args, dict(step.kwargs)), lambda tensor: values[tensor.name])
    results = keras.tree.flatten(step.operation(*args, **kwargs))
    originals = {id(copy): own[key] for key, copy in copies.items()}
    for value in (*objects.values(), *results):
        if id(mask_of(value)) in originals:
            set_mask(value, originals[id(mask_of(value))])
    given: dict[int, str] = {}
    for index, (name, value) in enumerate(zip(step.outputs, results, strict=True)):
        values[name] = value
        if value is None:
            continue
        labels.setdefault(id(value), name)
        infos[name] = TensorInfo(name, _shape(step, infos[name].shape, value.shape), value.dtype.name)
        mask = mask_of(value)
        if mask is not None and id(mask) not in labels:
            label = f"{name}:mask" if f"{name}:mask" not in infos else f"{name}:mask#1"
            given[index] = labels[id(mask)] = label
            infos[label] = TensorInfo(label, tuple(mask.shape), mask.dtype.name)
    used = {key for key, copy in copies.items() if copy.consumers() or any(copy is value for value in results)}
    taken = {name: labels[id(own[id(values[name])])] for name in step.inputs if id(values[name]) in used}
    return Masks(taken, given)


def _shape(step: Step, recorded: tuple[int | None, ...], traced: tf.TensorShape) -> tuple[int | None, ...]:
    """The traced shape, or the recorded shape if it agrees and leaves fewer extents open.

    The shapes that a user's layer computes may be wrong, so for such a layer only traced shapes count.
    """
    own = any(is_foreign(layer) for layer in sublayers(step.operation))
    fits = traced.rank is None if own else traced.is_compatible_with(recorded)
    return recorded if fits else tuple(traced)


def _without(step: Step, nothing: Set[str]) -> Step:
    """The step with None in place of the tensors `nothing`."""
    if nothing.isdisjoint(step.inputs):
        return step
    args, kwargs = fill((step.args, dict(step.kwargs)), lambda tensor: None if tensor.name in nothing else tensor)
    return replace(step, args=args, kwargs=kwargs, inputs=tuple(name for name in step.inputs if name not in nothing))


def _extended(step: Step, masks: Masks, used: set[str]) -> Step:
    kept = Masks(masks.taken, {index: name for index, name in masks.given.items() if name in used})
    inputs = tuple(dict.fromkeys((*step.inputs, *kept.taken.values())))
    return replace(step, inputs=inputs, outputs=(*step.outputs, *kept.given.values()), masks=kept)
