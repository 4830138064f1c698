"""Engines: how a stage is executed. `eager` runs operation by operation, `graph` and `frozen` run a compiled function.

Rule for compiled functions: they are called flat, with their tensors in order. `ConcreteFunction.__call__` tries a
structured signature first, and where that does not fit (a frozen function has none) it formats every tensor into an
error text at each call before it falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from partitioning.errors import PartitionError, suggest
from partitioning.plan import Stage
from partitioning.program import Program


class Executable(Protocol):
    """A stage that can run."""

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """`stage.outputs` from `stage.inputs`, in their orders: TensorFlow tensors from tensors or arrays.

        An array may be a read-only view. It must not be written to while the result is in use: where its memory is
        aligned as TensorFlow wants it, the tensor shares it.
        """
        ...


def build(engine: str, program: Program, stage: Stage) -> Executable:
    """The stage, ready to run on the engine of that name. Raises `PartitionError` for an unknown name."""
    if engine not in ENGINES:
        raise PartitionError(f"no engine {engine!r}{suggest(engine, ENGINES)}; valid: {', '.join(ENGINES)}")
    return ENGINES[engine](program, stage)


def to_array(value: Any) -> npt.NDArray[Any]:
    """The tensor's values as a C-contiguous array that shares its memory where NumPy knows the type, and is read-only.

    bfloat16 and the 8-bit floats are copied; their dtypes are those of `ml_dtypes`.
    """
    if isinstance(value, tf.Tensor):
        dtype = value.dtype.as_numpy_dtype
        # NumPy reads a tensor as a buffer, and that knows only NumPy's own types.
        return np.asarray(value if np.dtype(dtype).kind in "biufc" else value.numpy(), dtype, order="C")
    return np.asarray(value, order="C")


def _eager(program: Program, stage: Stage) -> Executable:
    function, dtypes = program.function(stage), _dtypes(program, stage)

    def run(inputs: Sequence[Any]) -> list[Any]:
        return function([tf.convert_to_tensor(value, dtype) for value, dtype in zip(inputs, dtypes, strict=True)])

    return run


def _graph(program: Program, stage: Stage) -> Executable:
    return _Compiled(program, stage, _traced(program, stage))


def _frozen(program: Program, stage: Stage) -> Executable:
    traced = _traced(program, stage)
    if not traced.captured_inputs:  # No variable: it is frozen as it is, and tracing twice takes twice as long.
        return _Compiled(program, stage, traced)
    try:
        constant = convert_variables_to_constants_v2(traced)
    except (ValueError, tf.errors.OpError) as error:
        raise PartitionError(f"stage {stage.name!r} cannot be frozen ({error}); use the engine graph") from error
    return _Compiled(program, stage, constant)


class _Compiled:
    """Calls the flat function inside of a concrete one: no signature is matched, no structure is rebuilt.

    That takes a third off the call of a small stage. Holds the program, whose variables the function captures.
    """

    def __init__(self, program: Program, stage: Stage, concrete: Any) -> None:
        self._program = program
        self._dtypes = _dtypes(program, stage)
        self._flat = concrete.inference_fn.call_flat
        self._captured = concrete.captured_inputs

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        pairs = zip(inputs, self._dtypes, strict=True)
        return list(self._flat(*[tf.convert_to_tensor(value, dtype) for value, dtype in pairs], *self._captured))


def _traced(program: Program, stage: Stage) -> Any:
    function = program.function(stage)
    return tf.function(
        lambda *tensors: function(tensors), input_signature=_signature(program, stage)
    ).get_concrete_function()


def _signature(program: Program, stage: Stage) -> list[Any]:
    """What `tf.function` must know of the inputs; the batch stays open."""
    infos = [program.graph.tensors[name] for name in stage.inputs]
    return [tf.TensorSpec(info.shape, info.dtype) for info in infos]


def _dtypes(program: Program, stage: Stage) -> list[Any]:
    return [tf.as_dtype(program.graph.tensors[name].dtype) for name in stage.inputs]


ENGINES: Mapping[str, Callable[[Program, Stage], Executable]] = {"eager": _eager, "graph": _graph, "frozen": _frozen}
