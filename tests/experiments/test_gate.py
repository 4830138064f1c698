"""The correctness gate: it finds a broken partition, and a wrong answer does not discard the answers beside it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from keras import layers

from experiments.measure import gate
from experiments.measure.gate import OutputDiffers, Right, Verdict, compare
from experiments.measure.prepare import prepare
from experiments.measure.progress import Progress
from experiments.measure.runner import run as measure
from experiments.measure.ties import scores_of
from experiments.measure.tolerance import TOLERANCES, Tolerance, tolerance_of
from experiments.measure.writers import Writers
from experiments.reports.report import build
from experiments.spec.experiment import Cell, Experiment
from experiments.store import samples
from partitioning.program import Program, read
from tests.kinds import KINDS
from tests.models import MODELS, fork_join
from transports.base import Array

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker


def swapped(program: Program, operation: str) -> Program:
    """The program with the inputs of one join exchanged."""
    step = program.steps[operation]
    (tensors,) = step.args
    return replace(program, steps={**program.steps, operation: replace(step, args=(tensors[::-1],))})


def crossed(program: Program, operation: str, other: str) -> Program:
    """The program with the operation of `other`, weights included, in place of `operation`."""
    step = replace(program.steps[operation], operation=program.steps[other].operation)
    return replace(program, steps={**program.steps, operation: step})


BROKEN: dict[str, Callable[[Program], Program]] = {
    "exchanged inputs of a join": lambda program: swapped(program, "difference"),
    "exchanged inputs of a concatenation": lambda program: swapped(program, "join"),
    "another branch's operation": lambda program: crossed(program, "right", "third"),
}


@pytest.mark.parametrize("policy", ["float64", "float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("what", BROKEN)
def test_the_gate_stops_a_wrong_output(what: str, policy: str, tmp_path: Path) -> None:
    path = tmp_path / "fork_join.keras"
    keras.config.set_dtype_policy(policy)
    try:
        fork_join().save(path)
    finally:
        keras.config.set_dtype_policy("float32")
    experiment = Experiment((Cell(transport="none", servers=2),), model=str(path), runs=3).with_locals()
    right = prepare(experiment)
    assert right.tolerance.precision == policy.removeprefix("mixed_")
    out = samples.claim(tmp_path / "out", experiment.title)
    progress = Progress(6, [cell.name for cell in experiment.cells])
    with samples.Writer(out) as writer, progress, pytest.raises(OutputDiffers, match=r"output 'head'.*deviates"):
        measure(replace(right, program=BROKEN[what](right.program)), Writers(writer), progress)
    assert not len(samples.read(out))


def test_answers_to_requests_in_flight_beside_a_failing_one_are_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of forty requests fails; those in flight with it are answered and kept, and no other request starts."""
    cell, calls, answered = Cell("none", servers=2, concurrency=4), itertools.count(), []
    check = gate.check

    def refuse_one(*arguments: Any) -> Verdict:
        if next(calls) == 20:
            raise OutputDiffers("this one is refused")
        answered.append(check(*arguments))
        return answered[-1]

    monkeypatch.setattr(gate, "check", refuse_one)
    prepared = prepare(Experiment((cell,), model=str(model), runs=40))
    progress = Progress(40, [cell.name])
    with samples.Writer(tmp_path) as writer, progress, pytest.raises(OutputDiffers, match="this one"):
        measure(prepared, Writers(writer), progress)
    uncounted = Experiment.warmup + cell.concurrency
    assert len(samples.read(tmp_path)) == len(answered) - uncounted


NAN, INF = np.nan, np.inf
NUMBERS: Mapping[str, tuple[list[float], list[float], float, str]] = {
    "equal": ([1, 2], [1, 2], 0.0, ""),
    "rounded": ([1, 2.0001], [1, 2], 5e-5, ""),
    "too far": ([1, 2.1], [1, 2], 5e-2, "deviates from the local model's by"),
    "zeros": ([0, 0], [0, 0], 0.0, ""),
    "the same infinity": ([INF, -INF, 3], [INF, -INF, 3], 0.0, ""),
    "NaN at the same place": ([NAN, 3.0003], [NAN, 3], 1e-4, ""),
    "nothing finite": ([NAN, INF], [NAN, INF], 0.0, ""),
    "far beside an infinity": ([INF, 3.3], [INF, 3], 0.1, "deviates from the local model's by"),
    "the other infinity": ([INF, 3], [-INF, 3], INF, "is not finite"),
    "NaN for infinity": ([NAN, 3], [INF, 3], INF, "is not finite"),
    "NaN for a number": ([1, NAN, NAN], [1, 2, 3], INF, "is not finite where the local model's is, or"),
    "a number for infinity": ([1, 2], [1, INF], INF, "at 1 of 2 elements, first"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64"])
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_compared_with_their_infinities(case: str, dtype: str) -> None:
    found, right, deviation, fault = NUMBERS[case]
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    verdict = compare(np.array(found, kind), Right({"y": np.array(right, kind)}, Tolerance(1e-2, dtype)), "y")
    assert verdict.deviation == pytest.approx(deviation, rel=2e-3, abs=6e-3 if dtype == "bfloat16" else 0.0)
    assert fault in verdict.fault
    assert bool(fault) == bool(verdict.fault)


FORMS: Mapping[str, tuple[Array, Array, str]] = {
    "shape": (np.zeros((2, 3)), np.zeros((2, 4)), "has the shape (2, 3); the local model's has (2, 4)"),
    "rank": (np.zeros((2, 0)), np.zeros((0,)), "has the shape (2, 0); the local model's has (0,)"),
    "dtype": (np.zeros(2, "float32"), np.zeros(2), "has the dtype float32; the local model's has float64"),
    "byte order": (np.zeros(2, ">f8"), np.zeros(2), ""),
    "nothing": (np.zeros((0, 3)), np.zeros((0, 3)), ""),
    "integers": (
        np.array([1, 2, 9, 4]),
        np.array([1, 2, 3, 4]),
        "differs from the local model's in 1 of 4 elements (25.00%)",
    ),
    "unsigned": (
        np.array([0, 2], "uint8"),
        np.array([255, 2], "uint8"),
        "in 1 of 2 elements (50.00%); whether they are",
    ),
    "booleans": (np.array([True, True]), np.array([True, False]), "in 1 of 2 elements (50.00%)"),
}


@pytest.mark.parametrize("case", FORMS)
def test_another_shape_dtype_or_decision_is_said_as_such(case: str) -> None:
    found, right, fault = FORMS[case]
    verdict = compare(found, Right({"y": right}, Tolerance(1e-3, "float32")), "y")
    assert fault in verdict.fault
    assert bool(fault) == bool(verdict.fault)


def _decided(decide: Callable[[Any], Any]) -> tuple[Array, Right]:
    """The answer of a model that decides about three rows, and its `Right`. Rows: a clear winner, a near tie, a tie."""
    x = keras.Input((3,), name="x")
    program = read(keras.Model(x, decide(layers.Activation("linear", name="scores")(x))))
    inputs = {"x": np.array([[1, 9, 2], [5, 1, 5.0001], [7, 7, 2]], "float32")}
    assert program.client is not None
    right = np.asarray(decide(inputs["x"]))
    (name,) = program.graph.outputs
    scores = {"y": scores_of(program, inputs)[name]} if scores_of(program, inputs) else {}
    return right, Right({"y": right}, Tolerance(1e-3, "float32"), scores)


ops = keras.ops
DECISIONS: Mapping[str, tuple[Callable[[Any], Any], list[Any], int, str]] = {
    "the other of two": (lambda x: ops.argmax(x, axis=-1), [1, 0, 1], 2, ""),
    "kept dimensions": (lambda x: ops.argmax(x, axis=1, keepdims=True), [[1], [0], [0]], 1, ""),
    "cast and reshaped": (lambda x: ops.reshape(ops.cast(ops.argmax(x, -1), "int64"), (-1, 1)), [[1], [0], [0]], 1, ""),
    "the worst of three": (lambda x: ops.argmax(x, axis=-1), [1, 1, 0], 0, "in 1 of 3 elements (33.33%); 0 of them"),
    "a clear winner": (lambda x: ops.argmax(x, axis=-1), [0, 0, 0], 1, "2 of 3 elements (66.67%); 1 of them are near"),
    "no candidate": (lambda x: ops.argmax(x, axis=-1), [7, 2, 0], 0, "0 of them are near ties"),
    "along the batch": (lambda x: ops.argmax(x, axis=0), [2, 0, 0], 0, "in 1 of 3 elements"),
    "of everything": (lambda x: ops.argmax(x), 1, 0, ""),
    "the smallest": (lambda x: ops.argmin(x, axis=-1), [0, 1, 0], 0, "in 1 of 3 elements"),
    "a threshold": (lambda x: x > 5, [[0, 1, 0], [0, 0, 0], [1, 1, 0]], 1, ""),
    "a threshold far away": (lambda x: x > 5, [[1, 1, 0], [0, 0, 1], [1, 1, 0]], 0, "in 1 of 9 elements (11.11%); 0"),
    "below": (lambda x: x <= ops.flip(x), [[1, 0, 1], [0, 0, 1], [0, 1, 0]], 3, ""),
    "unknown scores": (
        lambda x: ops.top_k(x, 1)[1],
        [[1], [0], [0]],
        0,
        "cannot be known, since the values that decide",
    ),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_near_ties_are_told_from_wrong_decisions(case: str) -> None:
    decide, found, ties, fault = DECISIONS[case]
    expected, right = _decided(decide)
    verdict = compare(np.array(found, expected.dtype), right, "y")
    assert verdict.near_ties == ties
    assert fault in verdict.fault
    assert bool(fault) == bool(verdict.fault)


def _dense(dtype: str) -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, dtype=dtype, name="low")(layers.Dense(4, name="first")(x)))


PRECISIONS: Mapping[str, tuple[Callable[[], keras.Model], str, str]] = {
    "float32": (MODELS["residual"], "float32", "stem"),
    "a layer in float16": (lambda: _dense("float16"), "float16", "low"),
    "a layer in bfloat16": (lambda: _dense("bfloat16"), "bfloat16", "low"),
    "mixed": (lambda: _dense("mixed_float16"), "float16", "low"),
    "a layer in float64": (lambda: _dense("float64"), "float32", "first"),
    "int8": (KINDS["int8"], "int8", "first"),
    "int4": (KINDS["int4"], "int4", "first"),
    "float8": (KINDS["float8"], "float8", "first"),
    "no number": (
        lambda: keras.Model(x := keras.Input((2,), dtype="int32", name="x"), layers.Flatten(dtype="int32")(x + 1)),
        "exact",
        "",
    ),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_the_tolerance_follows_the_lowest_precision(case: str) -> None:
    build, precision, operation = PRECISIONS[case]
    program = read(build())
    found = tolerance_of(program)
    assert (found.value, found.precision, found.operation) == (TOLERANCES[precision], precision, operation)
    assert (tolerance_of(program, tf32=True).precision == "tf32") == (precision == "float32")


def test_the_gate_its_near_ties_and_the_cards_are_reported(make_results: Maker) -> None:
    gate = {"tolerance": 0.03, "reason": "the lowest precision on the path is float16 (operation 'a|b')"}
    folder = make_results([Cell()], gate=gate, cards={"0": "Card | of a sort"})
    path = folder / "samples.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[frame["transport"] == "grpc", "near_ties"] = "2"
    frame.to_csv(path, index=False, lineterminator="\n")
    whole = build(folder).read_text(encoding="utf-8")
    details = (folder / "cells.md").read_text(encoding="utf-8")
    assert re.search(r"\| Cards +\| 0 Card \\\| of a sort, TF32 off +\|", details)
    (text,) = (part for part in whole.split("\n\n") if "Every answer" in part)
    assert "by 0.03 of its output's largest value, since the lowest precision on the path is float16" in text
    assert text.endswith("(near ties): 100 in grpc/layer/nested/eager/raw/b1/s5.")
