"""What stages take and give: arrays that share the memory of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from partitioning.engines import ENGINES, to_array, to_held_array
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import MODELS, inputs_for
from tests.partitioning.conftest import executables


@pytest.mark.parametrize("engine", ENGINES)
def test_a_held_array_is_its_tensor_and_a_view_of_it_is_not(engine: str) -> None:
    model = MODELS["sequential"]()
    program = read(model)
    (run,) = executables(engine, program, make_plan(program.graph, "whole")).values()
    held = to_held_array(tf.constant(inputs_for(model, batch=3)[0]))
    assert np.shares_memory(held, to_array(held.tensor))
    for array in (held, held[1:], held[::-1]):
        np.testing.assert_array_equal(to_array(run([array])[0]), to_array(run([np.array(array)])[0]))


def test_arrays_share_the_memory_of_tensors() -> None:
    tensor = tf.ones((64, 64))
    array = to_array(tensor)
    assert array.flags.c_contiguous
    assert np.shares_memory(array, to_array(tensor))
    assert to_array(tf.constant(3.0)).shape == ()
    for name in ("bfloat16", "float8_e5m2", "float16", "int64", "bool", "uint8", "complex64"):
        for shape in ((), (2, 3), (0, 4)):
            assert to_array(tf.cast(tf.ones(shape), name)).dtype.name == name
            assert to_array(tf.cast(tf.ones(shape), name)).shape == shape
    transposed = np.ones((2, 3), "float32").T
    assert to_array(transposed).flags.c_contiguous
