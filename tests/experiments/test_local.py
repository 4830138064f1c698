"""The local model: called directly, without client, nodes or messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.measure import runner
from experiments.measure.prepare import prepare
from experiments.measure.progress import Progress
from experiments.measure.writers import Writers
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import samples


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
    np.testing.assert_allclose(local["compute_seconds"], local["seconds"], atol=1e-3)
    assert (local["compute_seconds"] <= local["seconds"]).all()
    assert (split["messages"] > 0).all()
    assert (frame["deviation"] <= 1e-3).all()
