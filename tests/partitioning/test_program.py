"""Every shape of model, cut in every way and run by every engine, gives the outputs of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

from partitioning import costs, engines
from partitioning.engines import ENGINES
from partitioning.errors import PartitionError
from partitioning.graph import Graph
from partitioning.plan import Plan, Stage, build_plan
from partitioning.program import Program, read
from partitioning.strategies import balanced, equal, layer, whole
from tests.models import MODELS, flat_outputs, inputs_for
from tests.partitioning.conftest import executables, run_chained

STRATEGIES: dict[str, Callable[[Graph], tuple[int, ...]]] = {
    "whole": whole,
    "layer": layer,
    "equal": lambda graph: equal(graph, 3),
    "balanced": lambda graph: balanced(graph, 3, {operation.name: 1.0 for operation in graph.operations}),
}


@cache
def _answered(name: str) -> tuple[Program, list[tuple[list[Any], list[Any]]]]:
    """The program of the model, and (inputs, outputs) of the model for two batches."""
    model = MODELS[name]()
    batches = [inputs_for(model, batch) for batch in (1, 3)]
    return read(model), [(inputs, flat_outputs(model, inputs)) for inputs in batches]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_chained_stages_equal_the_model(name: str, engine: str, strategy: str) -> None:
    program, answered = _answered(name)
    plan = build_plan(program.graph, STRATEGIES[strategy](program.graph), strategy)
    stages = executables(engine, program, plan)
    for inputs, outputs in answered:
        for got, expected in zip(run_chained(plan, stages, inputs), outputs, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_eager_program_is_bit_identical_and_leaves_the_model_alone(name: str) -> None:
    model = MODELS[name]()
    calls = [len(operation._inbound_nodes) for operation in model.operations] if name != "sequential" else []
    program, inputs = read(model), inputs_for(model)
    plan = build_plan(program.graph, whole(program.graph), "whole")
    chained = run_chained(plan, executables("eager", program, plan), inputs)
    for got, expected in zip(chained, flat_outputs(model, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert calls == ([len(op._inbound_nodes) for op in model.operations] if name != "sequential" else [])


def _names(name: str) -> list[str]:
    return [operation.name for operation in read(MODELS[name]()).graph.operations]


def test_operations_and_tensors_are_named() -> None:
    assert _names("shared-layer") == ["shared", "between", "shared#1", "bend", "shared#2", "difference", "head"]
    inner = ["deep/deep_1", "deep/deep_2", "wide", "skip"]
    first, second = [f"inner/{name}" for name in inner], [f"inner#1/{name}" for name in inner]
    assert _names("nested") == [*first, "between", *second, "head"]
    graph = read(MODELS["several-outputs"]()).graph
    assert graph.operations[0].outputs == ("lstm:0", "lstm:1", "lstm:2")
    graph = read(MODELS["structured"]()).graph
    assert set(graph.inputs) == {"query", "value", "unused"}
    assert graph.outputs == ("head", "attention")


def test_shared_layers_are_one_object() -> None:
    steps = read(MODELS["shared-layer"]()).steps
    assert steps["shared"].operation is steps["shared#1"].operation is steps["shared#2"].operation


def test_shapes_inside_a_model_called_with_another_shape() -> None:
    inner_input = keras.Input((None, None, 3))
    inner = keras.Model(
        inner_input, layers.Conv2D(2, 3, strides=2, padding="same", name="half")(inner_input), name="any"
    )
    x = keras.Input((8, 8, 3))
    graph = read(keras.Model(x, layers.Flatten(name="flat")(inner(x)))).graph
    assert graph.tensors["any/half"].shape == (None, 4, 4, 2)


def test_operations_without_effect_on_an_output_are_left_out() -> None:
    x = keras.Input((4,), name="x")
    used, unused = layers.Dense(3, name="used")(x), layers.Dense(5, name="unused")(x)
    inner = keras.Model(x, [used, unused], name="inner")
    outer = keras.Input((4,), name="outer")
    assert [op.name for op in read(keras.Model(outer, inner(outer)[0])).graph.operations] == ["inner/used"]


def test_layers_do_at_inference_what_they_do_in_the_model() -> None:
    """`model(x, training=False)` overrides `training=True` as an argument or as a preprocessing layer's default."""
    x = keras.Input((6,), name="x")
    dropped = layers.Dropout(0.5, name="drop")(x, training=True)
    model = keras.Model(x, layers.GaussianNoise(0.9, name="noise")(dropped) * 2.0)
    program, inputs = read(model), inputs_for(model)
    plan = build_plan(program.graph, layer(program.graph), "layer")
    got = run_chained(plan, executables("eager", program, plan), inputs)[0]
    np.testing.assert_array_equal(got, flat_outputs(model, inputs)[0])


def _swapped(name: str, stage: str) -> tuple[list[Any], list[Any]]:
    """The outputs of the model in layers, without and with the two inputs of one stage exchanged."""
    program, inputs = read(MODELS[name]()), inputs_for(MODELS[name]())
    plan = build_plan(program.graph, layer(program.graph), "layer")
    stages = executables("eager", program, plan)
    swapped = run_chained(plan, stages, inputs, lambda at, given: given[::-1] if at == stage else given)
    return run_chained(plan, stages, inputs), swapped


@pytest.mark.parametrize(
    ("name", "stage"), [("fork-join", "difference"), ("shared-layer", "difference"), ("long-skip", "difference")]
)
def test_exchanged_inputs_change_the_output_visibly(name: str, stage: str) -> None:
    right, wrong = _swapped(name, stage)
    assert max(np.abs(a - b).max() for a, b in zip(right, wrong, strict=True)) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_every_broken_edge_changes_the_output_visibly(name: str) -> None:
    """Replacing any tensor that crosses a cut by zeros changes an output, so comparing outputs detects it."""
    model = MODELS[name]()
    program, inputs = read(model), inputs_for(model)
    plan = build_plan(program.graph, layer(program.graph), "layer")
    stages = executables("eager", program, plan)
    right = run_chained(plan, stages, inputs)
    empty = {name for name, edge in plan.edges.items() if 0 in edge.shape}  # such a tensor has nothing to break
    for stage in (stage for stage in plan.stages if not empty.issuperset(stage.outputs)):
        for place, tensor in enumerate(stage.inputs):
            if tensor in empty:
                continue

            def cut(at: str, given: Any, stage: Stage = stage, place: int = place) -> Any:
                broken = [np.zeros_like(x) if index == place else x for index, x in enumerate(given)]
                return broken if at == stage.name else given

            wrong = run_chained(plan, stages, inputs, cut)
            worst = max(np.abs(a - b).max(initial=0.0) for a, b in zip(right, wrong, strict=True))
            assert worst > 0.01, f"{stage.name}: {tensor}"


def _subclassed() -> keras.Model:
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    return Own(name="own")


def _overridden() -> keras.Model:
    class Own(keras.Model):
        def __init__(self) -> None:
            x = keras.Input((4,))
            super().__init__(x, layers.Dense(2)(x), name="own")

        def call(self, inputs: Any, training: bool = False) -> Any:
            return super().call(inputs) * 2

    return Own()


def _empty() -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, x)


def _strings() -> keras.Model:
    x = keras.Input((1,), dtype="string", name="text")
    return keras.Model(x, layers.StringLookup(vocabulary=["a", "b"])(x))


def _sparse() -> keras.Model:
    x = keras.Input((4,), sparse=True, name="x")
    return keras.Model(x, layers.Dense(2)(x))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "subclassed": (_subclassed, "'own' (Own) has its own call(), so its graph is unknown; write it with the"),
    "overridden": (_overridden, "'own' (Own) has its own call()"),
    "unbuilt": (
        lambda: keras.Sequential([layers.Dense(2)], name="seq"),
        "'seq' is not built: begin it with keras.Input",
    ),
    "no layers": (lambda: keras.Sequential([keras.Input((4,))], name="seq"), "'seq' has no layers"),
    "no operation": (_empty, "the model has no operation that a server could run"),
    "strings": (_strings, "no operation that a server could run: those on strings run at the client"),
    "sparse": (_sparse, "input 'x' is sparse or ragged"),
    "no model": (lambda: layers.Dense(2), "Dense is no Keras model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_cut_are_refused(case: str) -> None:
    build, reason = REFUSED[case]
    with pytest.raises(PartitionError) as caught:
        read(build())
    assert reason in str(caught.value)
    assert ("strings" in str(caught.value)) == (case == "strings")


def test_a_stage_that_the_program_cannot_run_is_refused() -> None:
    program = read(MODELS["fork-join"]())
    with pytest.raises(PartitionError, match="stage 's' has the operation 'other', which this program has not"):
        program.function(Stage("s", ("x",), ("stem",), ("other",)))
    with pytest.raises(
        PartitionError, match="stage 's': left needs tensor 'stem', which is neither an input nor made before"
    ):
        program.function(Stage("s", ("x",), ("left",), ("left",)))
    with pytest.raises(PartitionError, match="no engine 'eagre'; did you mean 'eager'"):
        engines.build("eagre", program, Stage("s", ("x",), ("stem",), ("stem",)))


def _whole(model: keras.Model) -> tuple[Program, Plan]:
    program = read(model)
    return program, build_plan(program.graph, whole(program.graph), "whole")


@pytest.mark.parametrize("engine", ENGINES)
def test_low_precision_crosses_unchanged(engine: str) -> None:
    x = keras.Input((4,), dtype="bfloat16", name="x")
    model = keras.Model(x, layers.Dense(3, dtype="bfloat16", name="low")(x))
    program, plan = _whole(model)
    array = np.ones((2, 4), ml_dtypes.bfloat16)
    stages = executables(engine, program, plan)
    assert run_chained(plan, stages, [array])[0].dtype.name == "bfloat16"


def test_inputs_that_an_operation_cannot_take_are_refused() -> None:
    x = keras.Input((4,), dtype="int32", name="x")
    program = read(keras.Model(x, layers.Embedding(3, 2, name="embed")(x)))
    with pytest.raises(
        PartitionError, match="operation 'embed' cannot take these inputs: InvalidArgumentError"
    ) as error:
        costs.measure(program, {"x": np.full((1, 4), 7)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_costs_cover_every_operation(engine: str) -> None:
    model = MODELS["residual"]()
    program = read(model)
    seconds = costs.measure(program, inputs_for(model, 1), engine, repeats=3)
    assert list(seconds) == [operation.name for operation in program.graph.operations]
    assert all(0 <= value < 1 for value in seconds.values())
    assert sum(seconds.values()) > 0
    named = dict(zip(program.graph.inputs, inputs_for(model, 1), strict=True))
    assert costs.measure(program, named, engine, repeats=1)


def test_stages_are_timed_to_correct_a_cut_that_the_costs_of_operations_suggest() -> None:
    x = keras.Input((1000,), name="x")
    value = x
    for name in "abcdefgh":
        value = layers.Dense(1000 if name in "ab" else 4, name=name)(value)
    program = read(keras.Model(x, value))
    alike = dict.fromkeys((operation.name for operation in program.graph.operations), 1.0)
    inputs = [np.ones((64, 1000), np.float32)]
    plan, corrected = costs.cut_by_cost(program, inputs, "graph", "balanced", 2, alike)
    assert [stage.operations[0] for stage in plan.stages] == ["a", "b"]
    assert sum(corrected[name] for name in "cdefgh") < corrected["b"]
    assert sum(corrected.values()) < 1
