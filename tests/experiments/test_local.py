"""The local model: called directly, without client, nodes or messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.measure import runner
from experiments.measure.local import LocalModel
from experiments.measure.prepare import prepare
from experiments.measure.progress import Progress
from experiments.measure.writers import Writers
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import samples
from partitioning import engines

PAUSE = 0.05


@pytest.mark.parametrize("engine", ["eager", "graph", "frozen"])
def test_local_is_a_bare_call_and_none_has_nodes(
    engine: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = Cell("none", "submodel", engine=engine, servers=2)
    routed = []
    infer = runner.Client.infer
    monkeypatch.setattr(runner.Client, "infer", lambda *args: routed.append(args[1].name) or infer(*args))
    experiment = Experiment((none,), model=str(model), runs=5).with_locals()
    with samples.Writer(tmp_path) as writer, Progress(10, [cell.name for cell in experiment.cells]) as progress:
        runner.run(prepare(experiment), Writers(writer), progress)
    frame = samples.read(tmp_path)
    local = frame[frame["cell"] == local_of(none).name]
    split = frame[frame["cell"] == none.name]
    assert (len(local), len(split)) == (5, 5)
    assert set(routed) == {"submodel"}
    for name in ("messages", "payload_bytes", "lookups", "connects", "queue_seconds", "wire_bytes"):
        assert (local[name] == 0).all()
    assert (local["compute_seconds"] > 0).all()
    assert (local["compute_seconds"] <= local["seconds"]).all()
    assert (split["messages"] > 0).all()
    assert (frame["deviation"] <= 1e-3).all()


def test_the_whole_call_counts_as_compute(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pause in each stage, and one in the copy of each output, compute has all of them."""

    def paused(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (time.sleep(PAUSE), function(*arguments))[1]

    cell = Cell("none", "submodel", engine="frozen", servers=2)
    prepared = prepare(Experiment((cell,), model=str(model)).with_locals())
    plan, build = prepared.partitions[cell].plan, engines.build
    monkeypatch.setattr(engines, "build", lambda *arguments: paused(build(*arguments)))
    monkeypatch.setattr(engines, "to_array", paused(engines.to_array))
    answer = LocalModel("frozen", prepared.program, plan).infer(prepared.inputs[1][0])
    assert answer.stats.compute >= PAUSE * (len(plan.stages) + len(plan.outputs))
