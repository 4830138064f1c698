"""The part of a model that runs at the client: operations on strings, and outputs that need no operation.

A plan covers the rest of the model. Strings cannot cross a cut; operations at the client convert them to tensors that
servers take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from partitioning.errors import PartitionError, one_line
from partitioning.graph import TensorInfo
from partitioning.steps import Step

Array = npt.NDArray[Any]
STRING = "string"


@dataclass(frozen=True)
class ClientSide:
    """The model's inputs and outputs, and the operations that run at the client.

    `inputs` and `outputs` are flat and in the model's order; outputs are repeated if the model repeats them.
    Absent inputs are left out. `structure` holds the inputs' names in the lists and dictionaries that the model takes,
    and `None` for absent ones. `before` and `after` are the operations that run before and after the servers. `limits`:
    input of whole numbers -> how many of them, from 0, its consumers take (`partitioning.limits`).
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[str, ...]
    structure: Any
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)

    def prepare(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's inputs and the results of `before`, by tensor name. Raises `PartitionError` as `answer` does."""
        with self._taking_inputs():
            return _run(self.before, inputs)

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name, from its inputs and the servers' outputs."""
        values = _run(self.after, {**self.prepare(inputs), **outputs})
        return {name: values[name] for name in self.outputs}

    def answer(self, model: keras.Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name of `model` itself, called as a whole by Keras alone.

        Raises `PartitionError` for inputs that the model refuses, and for an output that is None.
        """
        given = keras.tree.map_structure(lambda name: None if name is None else inputs[name], self.structure)
        with self._taking_inputs():
            flat = keras.tree.flatten(model(given, training=False))
        for name, value in zip(self.outputs, flat, strict=True):
            if value is None:
                raise PartitionError(f"output {name!r} of the model is None; save the model without this output")
        return {name: np.asarray(value) for name, value in zip(self.outputs, flat, strict=True)}

    @contextmanager
    def _taking_inputs(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # A layer may raise anything.
            names = ", ".join(info.name for info in self.inputs)
            raise PartitionError(
                f"the model refuses this input: {one_line(error)}; give values that it takes: --input FILE.npz, with "
                f"the arrays {names}"
            ) from error


def split(
    steps: Sequence[Step], tensors: Mapping[str, TensorInfo], inputs: Sequence[str]
) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]:
    """The steps that run before, at and after the servers.

    Before: operations on strings of the model's inputs, and all operations on which these operations depend. After:
    operations that take or make other strings, and all operations that depend on them. Raises `PartitionError` if an
    operation would have to run both before and after, and if no operation is left for the servers.
    """
    strings = {name for name, info in tensors.items() if info.dtype == STRING}
    from_client = strings.intersection(inputs)
    early: set[str] = set()
    for step in steps:
        if from_client.intersection(step.inputs):
            early.add(step.name)
            from_client |= strings.intersection(step.outputs)
    wanted = {name for step in steps if step.name in early for name in step.inputs}
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            early.add(step.name)
            wanted.update(step.inputs)
    late: set[str] = set()
    behind = strings - from_client
    for step in steps:
        if behind.intersection((*step.inputs, *step.outputs)):
            late.add(step.name)
            behind.update(step.outputs)
    if both := [step.name for step in steps if step.name in early & late]:
        raise PartitionError(
            f"operation {both[0]!r} takes strings of the model's inputs and of its layers; such a model is not split"
        )
    at_servers = tuple(step for step in steps if step.name not in early | late)
    if not at_servers:
        why = ": those on strings run at the client" if early | late else ""
        raise PartitionError(f"the model has no operation that a server could run{why}")
    before, after = (tuple(step for step in steps if step.name in names) for names in (early, late))
    return before, at_servers, after


def _run(steps: Sequence[Step], inputs: Mapping[str, Array]) -> dict[str, Array]:
    values: dict[str, Any] = dict(inputs)
    for step in steps:
        tensors = {name: keras.ops.convert_to_tensor(values[name]) for name in step.inputs}
        values.update(zip(step.outputs, step.call(tensors.__getitem__), strict=True))
    return {name: np.asarray(value) for name, value in values.items()}
