"""The local engines: `eager` runs operation by operation, `graph` and `frozen` run a compiled function.

Compiled functions are executed as an operation of TensorFlow, with their tensors in order. `ConcreteFunction.__call__`
would try a structured signature first; if that does not fit (a frozen function has none), it formats every tensor into
an error text at each call before it falls back. Its flat variant takes 30 microseconds of Python for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.eager.context import context
from tensorflow.python.eager.execute import execute
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.framework.ops import EagerTensor

from partitioning.errors import PartitionError, suggest
from partitioning.memory import trim
from partitioning.plan import Stage
from partitioning.program import Program


class Executable(Protocol):
    """A stage, ready to run."""

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """`stage.outputs` from `stage.inputs`, in their orders: TensorFlow tensors from tensors or arrays.

        Arrays may be read-only views. They must not be written to while a result is in use: a tensor shares the memory
        of an array that is aligned for TensorFlow.
        """
        ...


def build(engine: str, program: Program, stage: Stage) -> Executable:
    """`stage` of `program`, ready to run under the engine named `engine`.

    Raises `PartitionError` for an unknown name and for a stage that the engine cannot run.
    """
    if engine not in ENGINES:
        raise PartitionError(f"no engine {engine!r}{suggest(engine, ENGINES)}; valid: {', '.join(ENGINES)}")
    _CONTEXT.ensure_initialized()  # nothing else does so for stages without variables, run eagerly
    return ENGINES[engine](program, stage)


_NUMPY_TYPES = frozenset(tf.as_dtype(np.dtype(code)).as_datatype_enum for code in "?bBhHiIlLefdFD")
"""TensorFlow's numbers of NumPy's own types, the only ones that the buffer protocol has."""


def to_array(value: Any) -> npt.NDArray[Any]:
    """The tensor's values as a C-contiguous, read-only array that shares its memory.

    Values of dtypes that `ml_dtypes` defines and NumPy does not (bfloat16, 8-bit floats) are copied.
    """
    if type(value) is EagerTensor and value._datatype_enum() not in _NUMPY_TYPES:
        value = value.numpy()
    return np.asarray(value, order="C")


_CONTEXT = context()


class HeldArray(np.ndarray[Any, Any]):
    """An array that holds the tensor whose memory it shares. Stages in this process take the tensor, without a copy."""

    tensor: Any = None  # views of the array have none


def to_held_array(value: Any) -> npt.NDArray[Any]:
    """The same as `to_array`, as a `HeldArray` where `value` is a tensor."""
    if not isinstance(value, tf.Tensor):
        return to_array(value)
    array = to_array(value).view(HeldArray)
    array.tensor = value
    return array


@cache
def _device() -> str | None:
    """The device of tensors that are made from arrays: None, the memory of the host, unless there is a card.

    For a name, even an empty one, TensorFlow looks its devices up at each tensor. In a process whose caches a stage has
    just filled, this takes five times as long as the rest.
    """
    return _CONTEXT.device_name if tf.config.list_logical_devices("GPU") else None


def _as_tensor(value: Any, dtype: int) -> Any:
    """`value` as a tensor of `dtype`, a number of TensorFlow's enumeration. A tensor is the output of a stage, whose
    dtype the plan fixes. An array is wrapped without the copy and the 35 calls of `tf.convert_to_tensor`."""
    kind = type(value)
    if kind is EagerTensor:
        return value
    if kind is HeldArray and value.tensor is not None:
        return value.tensor
    if isinstance(value, np.ndarray) and value.flags.c_contiguous:
        return EagerTensor(value, _device(), dtype)
    return tf.convert_to_tensor(value, tf.as_dtype(dtype))


def _eager(program: Program, stage: Stage) -> Executable:
    function, dtypes = program.function(stage), _dtypes(program, stage)

    def run(inputs: Sequence[Any]) -> list[Any]:
        return function([_as_tensor(value, dtype) for value, dtype in zip(inputs, dtypes, strict=True)])

    return run


def _graph(program: Program, stage: Stage) -> Executable:
    traced = _traced(program, stage)
    return _Compiled(program, stage, traced, traced.captured_inputs)


def _frozen(program: Program, stage: Stage) -> Executable:
    with _kept_seeds():
        traced = _traced(program, stage)
    if not traced.captured_inputs:  # There is no variable to freeze.
        return _Compiled(program, stage, traced, ())
    try:
        constant = convert_variables_to_constants_v2(traced)
    except (ValueError, tf.errors.OpError) as error:
        raise PartitionError(f"stage {stage.name!r} cannot be frozen ({error}); use the engine graph") from error
    # Lookup tables stay inputs.
    captured = {
        tensor.name: value for tensor, value in zip(traced.graph.internal_captures, traced.captured_inputs, strict=True)
    }
    tables = [captured[tensor.name] for tensor in constant.inputs[len(stage.inputs) :]]
    return _Compiled(program, stage, constant, tables)


@contextmanager
def _kept_seeds() -> Iterator[None]:
    """In the block, a draw leaves its layer's seed as it is, since a frozen graph has no variable to change. Recurrent
    layers draw dropout masks at inference, too, and do not apply them then; no other layer of a steady model draws."""
    drawn = keras.random.SeedGenerator.next
    keras.random.SeedGenerator.next = lambda self, ordered=True: self.state.value * 1
    try:
        yield
    finally:
        keras.random.SeedGenerator.next = drawn


class _Compiled:
    """Executes a concrete function, without matching a signature or rebuilding a structure.

    `_program` keeps the variables and tables alive that the function captures, and `_function` keeps the function
    registered. In the first call TensorFlow optimises the function, and copies its constants for this; the freed memory
    is then returned to the system.
    """

    def __init__(self, program: Program, stage: Stage, concrete: Any, captured: Sequence[Any]) -> None:
        self._program = program if captured else None
        self._dtypes = _dtypes(program, stage)
        self._captured = captured
        self._function = concrete.inference_fn
        self._name = self._function.name.decode()
        self._outputs = len(stage.outputs)
        self._attributes = tuple(chain.from_iterable(_CONTEXT.function_call_options.as_attrs().items()))
        self._called = False
        trim()

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        tensors = [_as_tensor(value, dtype) for value, dtype in zip(inputs, self._dtypes, strict=True)]
        if self._captured:
            tensors += self._captured
        results: list[Any] = execute(self._name, self._outputs, tensors, self._attributes, _CONTEXT)
        if not self._called:
            self._called = True
            trim()
        return results


def _traced(program: Program, stage: Stage) -> Any:
    """The stage as a concrete function of its inputs, in order; the batch stays open."""
    function = program.function(stage)
    infos = [program.graph.tensors[name] for name in stage.inputs]
    signature = [tf.TensorSpec(info.shape, info.dtype) for info in infos]
    with program.tracing(stage):
        return tf.function(lambda *tensors: function(tensors), input_signature=signature).get_concrete_function()


def _dtypes(program: Program, stage: Stage) -> list[int]:
    return [tf.as_dtype(program.graph.tensors[name].dtype).as_datatype_enum for name in stage.inputs]


ENGINES: Mapping[str, Callable[[Program, Stage], Executable]] = {"eager": _eager, "graph": _graph, "frozen": _frozen}
