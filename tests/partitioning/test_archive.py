"""Portions of models, written to files and read again, run as the model does; errors name the broken file."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from partitioning import archive, engines
from partitioning.errors import PartitionError
from partitioning.plan import Plan, build_plan
from partitioning.program import Program, read
from partitioning.strategies import equal, layer
from tests.kinds import KINDS
from tests.models import MODELS, flat_outputs, inputs_for
from tests.own_kinds import Weighted
from tests.partitioning.conftest import run_chained


def through_files(program: Program, plan: Plan, folder: Path, engine: str = "eager") -> dict[str, engines.Executable]:
    """Name -> stage. Each stage is exported and loaded by itself."""
    stages = {}
    for index, stage in enumerate(plan.stages):
        archive.export(program, stage.operations, folder / str(index))
        stages[stage.name] = engines.build(engine, archive.load(folder / str(index)), stage)
    return stages


@pytest.mark.parametrize("name", MODELS)
def test_every_stage_survives_the_files(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    program, inputs = read(model), inputs_for(model)
    expected = flat_outputs(model, inputs)
    for strategy, numbers in {"layer": layer(program.graph), "equal": equal(program.graph, 2)}.items():
        plan = build_plan(program.graph, numbers, strategy)
        got = run_chained(plan, through_files(program, plan, tmp_path / strategy), inputs)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_portion_is_the_same_program_again(tmp_path: Path) -> None:
    program = read(MODELS["shared-layer"]())
    archive.export(program, program.steps, tmp_path)
    loaded = archive.load(tmp_path)
    assert loaded.graph == program.graph
    assert loaded.steps["shared"].operation is loaded.steps["shared#2"].operation
    weights = np.load(tmp_path / "arrays.npz")
    assert sum(array.shape == (6, 6) for array in weights.values()) == 2  # of `shared` and `between`, once each


def _constants() -> keras.Model:
    """Arguments of many types: slices, numbers, strings, tuples, arrays and tensors."""
    x = keras.Input((8, 6), name="x")
    table = np.arange(6, dtype="float32")
    y = keras.ops.concatenate([x[:, ::2], x[:, 1:3, :]], axis=1) * table + keras.ops.convert_to_tensor(table)
    y = keras.ops.transpose(y, (0, 2, 1))
    y = keras.ops.pad(y, ((0, 0), (1, 0), (0, 0)), mode="constant", constant_values=2.0)
    y = keras.ops.sum(keras.ops.einsum("bij,bkj->bik", y, y), axis=-1, keepdims=True)
    return keras.Model(x, keras.ops.squeeze(y, -1) / 10.0)


def _low_precision() -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(3, dtype="bfloat16", name="low")(x))


def _normalised() -> keras.Model:
    x = keras.Input((4,), name="x")
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
    given = layers.Normalization(mean=1.0, variance=4.0, name="given")
    return keras.Model(x, layers.Rescaling(0.5, name="rescaled")(given(adapted(x))))


def _wrapped() -> keras.Model:
    x = keras.Input((5, 4), name="x")
    y = layers.TimeDistributed(layers.Dense(3, name="each"), name="time")(x)
    y = layers.Bidirectional(layers.GRU(3, name="gru"), name="both")(y)
    return keras.Model(x, layers.BatchNormalization(name="norm")(layers.PReLU(name="prelu")(y)))


SPECIAL: dict[str, Callable[[], keras.Model]] = {
    "constants": _constants,
    "bfloat16": _low_precision,
    "normalization": _normalised,
    "wrapped": _wrapped,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_operations_survive_the_files(name: str, tmp_path: Path) -> None:
    model = SPECIAL[name]()
    program, inputs = read(model), inputs_for(model)
    plan = build_plan(program.graph, layer(program.graph), "layer")
    got = run_chained(plan, through_files(program, plan, tmp_path), inputs)[0]
    np.testing.assert_array_equal(got, flat_outputs(model, inputs)[0])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _age(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no operations": ("operations.json", Path.unlink, "operations.json does not exist; export"),
    "no arrays": ("arrays.npz", Path.unlink, "arrays.npz does not exist; export"),
    "short operations": ("operations.json", _truncate, "operations.json is not a usable portion"),
    "short arrays": ("arrays.npz", _truncate, "arrays.npz is not a usable portion"),
    "empty record": ("operations.json", lambda path: path.write_text("{}"), "operations.json is not a usable portion"),
    "other format": ("operations.json", _age, "format 0, not 2; export it again"),
    "other weights": ("arrays.npz", lambda path: np.savez(path, a=np.ones(1)), "arrays.npz is not a usable portion"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_named(case: str, tmp_path: Path) -> None:
    program = read(MODELS["sequential"]())
    archive.export(program, ["first", "second"], tmp_path)
    file, damage, reason = DAMAGES[case]
    damage(tmp_path / file)
    with pytest.raises(PartitionError) as caught:
        archive.load(tmp_path)
    assert reason in str(caught.value)


def test_only_objects_with_incomplete_configurations_come_from_the_model(tmp_path: Path) -> None:
    program = read(KINDS["own-model"]())
    archive.export(program, program.steps, tmp_path)
    record = json.loads((tmp_path / "operations.json").read_text())
    names = [program.graph.operations[item].name for item in record["objects"] if isinstance(item, int)]
    assert sorted(names) == ["backbone/shifted", "backbone/weighted"]
    for step in archive.load(tmp_path).steps.values():
        assert all(len(node.parent_nodes) == 0 for node in step.operation._inbound_nodes)


def test_a_model_whose_configuration_cannot_be_written_is_named(tmp_path: Path) -> None:
    class Nameless(keras.Model):
        def get_config(self) -> dict[str, Any]:
            raise NotImplementedError

    x = keras.Input((4,))
    program = read(Nameless(x, Weighted(keras.ops.tanh, "weighted")(x)))
    with pytest.raises(PartitionError, match=r"the model \(Nameless\) cannot be written to a file: NotImpl"):
        archive.export(program, program.steps, tmp_path)


def test_a_pickled_lambda_is_neither_run_nor_written(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    program = read(keras.Model(x, layers.Lambda(lambda value: value * 2, name="code")(x)))
    archive.export(program, ["code"], tmp_path)
    with pytest.raises(PartitionError, match=r"operations\.json is not a usable portion of a model: .*ambda"):
        archive.load(tmp_path)


JUNK = (None, 0, -1, 1.5, "", "x", [], {}, [[]], {"a": 1}, "string", True, 10**30, ["x"] * 3)


def _places(record: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    for key in record if isinstance(record, dict) else range(len(record)) if isinstance(record, list) else ():
        yield (*path, key)
        yield from _places(record[key], (*path, key))


def test_any_change_of_a_file_is_harmless_or_refused_on_one_line(tmp_path: Path) -> None:
    """Values are replaced one at a time. No exception other than `PartitionError` is raised."""
    program = read(MODELS["shared-layer"]())
    archive.export(program, program.steps, tmp_path)
    plan = build_plan(program.graph, equal(program.graph, 2), "submodel")
    file = tmp_path / "operations.json"
    text, draw = file.read_text(), random.Random(1)
    refused: list[str] = []
    for path in draw.sample(list(_places(json.loads(text))), 150):
        record = json.loads(text)
        parent = functools.reduce(lambda value, key: value[key], path[:-1], record)
        parent[path[-1]] = draw.choice(JUNK)
        file.write_text(json.dumps(record))
        try:
            loaded = archive.load(tmp_path)
            for stage in plan.stages:
                engines.build("eager", loaded, stage)
        except PartitionError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not [text for text in refused if "\n" in text]


def test_an_export_replaces_an_earlier_one(tmp_path: Path) -> None:
    """The first operation of the earlier export has a vocabulary; the later export has none."""
    x = keras.Input((4,), dtype="int64", name="x")
    earlier = read(keras.Model(x, layers.IntegerLookup(vocabulary=[3, 5], name="lookup")(x)))
    archive.export(earlier, earlier.steps, tmp_path)
    program = read(MODELS["sequential"]())
    archive.export(program, program.steps, tmp_path)
    assert archive.load(tmp_path).graph == program.graph


def test_an_unknown_operation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="no operation 'other' in this program"):
        archive.export(read(MODELS["sequential"]()), ["other"], tmp_path)


def test_a_disk_that_takes_no_export_is_no_fault_of_the_model(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    program = read(_constants())
    with pytest.raises(OSError, match=rf"^{file}/portion cannot be written: Not a directory$"):
        archive.export(program, program.steps, file / "portion")
