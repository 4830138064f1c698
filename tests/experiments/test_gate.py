"""The correctness gate: a broken partition is found, and answers beside a wrong one are kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.measure import gate
from experiments.measure.gate import OutputDiffers
from experiments.measure.prepare import prepare
from experiments.measure.progress import Progress
from experiments.measure.runner import run as measure
from experiments.spec.experiment import Cell, Experiment
from experiments.store import samples
from partitioning.program import Program
from tests.models import fork_join


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


@pytest.mark.parametrize("what", BROKEN)
def test_the_gate_stops_a_wrong_output(what: str, tmp_path: Path) -> None:
    path = tmp_path / "fork_join.keras"
    fork_join().save(path)
    experiment = Experiment((Cell(transport="none", servers=2),), model=str(path), runs=3).with_locals()
    right = prepare(experiment)
    out = samples.claim(tmp_path / "out", experiment.title)
    progress = Progress(6, [cell.name for cell in experiment.cells])
    with samples.Writer(out) as writer, progress, pytest.raises(OutputDiffers, match=r"output 'head'.*deviates"):
        measure(replace(right, program=BROKEN[what](right.program)), writer, progress)
    assert not len(samples.read(out))


def test_answers_to_requests_in_flight_beside_a_failing_one_are_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of forty requests fails; those in flight with it are answered and kept, and no other request starts."""
    cell, calls, answered = Cell("none", servers=2, concurrency=4), itertools.count(), []
    check = gate.check

    def refuse_one(*arguments: Any) -> float:
        if next(calls) == 20:
            raise OutputDiffers("this one is refused")
        answered.append(check(*arguments))
        return answered[-1]

    monkeypatch.setattr(gate, "check", refuse_one)
    prepared = prepare(Experiment((cell,), model=str(model), runs=40))
    progress = Progress(40, [cell.name])
    with samples.Writer(tmp_path) as writer, progress, pytest.raises(OutputDiffers, match="this one"):
        measure(prepared, writer, progress)
    uncounted = Experiment.warmup + cell.concurrency
    assert len(samples.read(tmp_path)) == len(answered) - uncounted
