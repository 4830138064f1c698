"""Every kind of model, in every mode and engine, through files and through SavedModels, answers as it does locally."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from partitioning.client_side import ClientSide
from partitioning.engines import to_array
from partitioning.errors import PartitionError
from partitioning.export import export
from partitioning.plan import Plan
from partitioning.program import Program, read
from partitioning.strategies import make_plan
from tests.kinds import ABSENT, KINDS, MASKED
from tests.models import inputs_for
from tests.partitioning.conftest import executables, run_chained
from tests.partitioning.test_archive import through_files
from tests.partitioning.test_export import loaded

Tensors = dict[str, Any]


@cache
def _answered(name: str) -> tuple[Program, list[tuple[Tensors, Tensors]]]:
    """The model's program, and its inputs and right outputs for two batches."""
    model = KINDS[name]()
    program = read(model, absent=ABSENT.get(name, ()))
    client = _client(program)
    draws = [dict(zip((x.name for x in model.inputs), inputs_for(model, n, n), strict=True)) for n in (1, 3)]
    draws = [{info.name: draw[info.name] for info in client.inputs} for draw in draws]
    return program, [(inputs, _expected(model, client, inputs)) for inputs in draws]


def _client(program: Program) -> ClientSide:
    assert program.client is not None
    return program.client


def _expected(model: keras.Model, client: ClientSide, inputs: Tensors) -> Tensors:
    """The outputs of the model, called as its user would call it."""
    functional = model._functional if isinstance(model, keras.Sequential) else model
    arrays = {id(x): inputs.get(x.name) for x in model.inputs}
    given = keras.tree.map_structure(lambda x: arrays[id(x)], functional._inputs_struct)
    flat = keras.tree.flatten(model(given, training=False))
    return dict(zip(client.outputs, [np.asarray(value) for value in flat], strict=True))


def _run(program: Program, plan: Plan, stages: Any, inputs: Tensors) -> Tensors:
    client = _client(program)
    prepared = client.prepare(inputs)
    got = run_chained(plan, stages, [prepared[name] for name in plan.inputs])
    return client.finish(inputs, dict(zip(plan.outputs, got, strict=True)))


def _assert_right(got: Tensors, expected: Tensors, exact: bool) -> None:
    assert list(got) == list(expected)
    for name, right in expected.items():
        if exact or right.dtype.kind not in "fc":
            np.testing.assert_array_equal(got[name], right, name)
        else:
            np.testing.assert_allclose(got[name], right, rtol=1e-5, atol=1e-6, err_msg=name)


WAYS = [("eager", "whole"), ("eager", "layer"), ("eager", "submodel"), ("graph", "layer"), ("frozen", "submodel")]
"""Every engine and every mode, but not every pair: a compiled stage does not depend on other stages."""


@pytest.mark.parametrize(("engine", "mode"), WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_chained_stages_equal_the_model(name: str, engine: str, mode: str, tmp_path: Path) -> None:
    program, answered = _answered(name)
    plan = make_plan(program.graph, mode, "equal", 3)
    ways = [executables(engine, program, plan)]
    if engine == "eager":  # files hold the same for every engine
        ways.append(through_files(program, plan, tmp_path, engine))
    for stages in ways:
        for inputs, expected in answered:
            _assert_right(_run(program, plan, stages, inputs), expected, exact=engine == "eager")


@pytest.mark.parametrize("mode", ["layer", "submodel"])
@pytest.mark.parametrize("name", KINDS)
def test_every_stage_survives_as_a_saved_model(name: str, mode: str, tmp_path: Path) -> None:
    program, answered = _answered(name)
    plan = make_plan(program.graph, mode, "equal", 3)
    served = export(program, plan, tmp_path)
    stages = {stage.name: loaded(served, tmp_path, stage) for stage in plan.stages}
    for inputs, expected in answered:
        _assert_right(_run(program, plan, stages, inputs), expected, exact=False)


@pytest.mark.parametrize("name", KINDS)
def test_tensors_are_what_the_graph_says(name: str) -> None:
    program, answered = _answered(name)
    assert {operation.kind for operation in program.graph.operations}.isdisjoint({"Functional", "Sequential"})
    values = _client(program).prepare(answered[1][0])
    for stage in make_plan(program.graph, "layer").stages:
        given = program.function(stage)([keras.ops.convert_to_tensor(values[tensor]) for tensor in stage.inputs])
        values.update((tensor, to_array(value)) for tensor, value in zip(stage.outputs, given, strict=True))
        for tensor in stage.outputs:
            info = program.graph.tensors[tensor]
            assert info.dtype == values[tensor].dtype.name
            assert [extent or real for extent, real in zip(info.shape, values[tensor].shape, strict=True)] == list(
                values[tensor].shape
            )


class Concrete(keras.layers.Layer):
    """Computes with NumPy, so it cannot be traced."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.convert_to_tensor(np.tanh(inputs.numpy()))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_a_layer_that_cannot_be_traced_runs_eagerly_and_is_refused_by_name_elsewhere() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(3)(Concrete(name="concrete")(x)))
    program, inputs = read(model), inputs_for(model)
    plan = make_plan(program.graph, "layer")
    np.testing.assert_array_equal(run_chained(plan, executables("eager", program, plan), inputs)[0], model(inputs[0]))
    with pytest.raises(PartitionError, match=r"'concrete' cannot be compiled .*; use the engine eager"):
        executables("frozen", program, plan)


@pytest.mark.parametrize("name", MASKED)
def test_a_wrong_mask_changes_the_output_visibly(name: str) -> None:
    program, answered = _answered(name)
    plan = make_plan(program.graph, "layer")
    masks = {tensor for tensor in plan.edges if tensor.endswith(":mask")}
    assert masks
    stages = executables("eager", program, plan)

    def inverted(stage: str, given: Any) -> Any:
        taken = plan.by_name[stage].inputs
        return [~array if name in masks else array for name, array in zip(taken, given, strict=True)]

    inputs = list(answered[1][0].values())
    right, wrong = run_chained(plan, stages, inputs), run_chained(plan, stages, inputs, inverted)
    assert max(np.abs(a - b).max() for a, b in zip(right, wrong, strict=True)) > 1e-3
