"""What stages take and give: arrays that share the memory of tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from partitioning import archive
from partitioning.engines import ENGINES, _as_tensor, to_array, to_held_array
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import MODELS, inputs_for
from tests.partitioning.conftest import executables
from tests.running import ROOT

FLOAT32 = tf.float32.as_datatype_enum


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


def test_aligned_arrays_become_tensors_without_a_copy() -> None:
    room = np.zeros(4096 + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + 4096].view(np.float32)
    assert np.shares_memory(array, to_array(_as_tensor(array, FLOAT32)))
    for other in (array[::2], room[start + 4 : start + 4092].view(np.float32)):  # TensorFlow cannot share these
        np.testing.assert_array_equal(to_array(_as_tensor(other, FLOAT32)), other)


LOADED = """
import sys
from pathlib import Path
import numpy as np
from partitioning import archive, engines
from partitioning.plan import Plan

folder = Path(sys.argv[1])
plan = Plan.from_json((folder / "plan.json").read_text())
run = engines.build(sys.argv[2], archive.load(folder / "portion"), plan.stages[0])
print(engines.to_array(run([np.array([[-1.0, 2.0]], "float32")])[0]).tolist())
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stage_without_variables_runs_in_a_process_that_runs_nothing_else(engine: str, tmp_path: Path) -> None:
    """Nothing has initialised TensorFlow there before the first request."""
    program = read(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))
    plan = make_plan(program.graph, "whole")
    (tmp_path / "plan.json").write_text(plan.to_json())
    archive.export(program, plan.stages[0].operations, tmp_path / "portion")
    words = [sys.executable, "-c", LOADED, str(tmp_path), engine]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[[0.0, 2.0]]"), done.stderr
