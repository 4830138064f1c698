"""What does not fit into memory is refused with what would."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from experiments.measure import memory
from partitioning import control_groups
from partitioning.control_groups import Grant
from partitioning.errors import PartitionError
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.models import weights_of

MB = 1_000_000
SIDE = TensorInfo("x", (None, 1000), "float32"), TensorInfo("y", (None, 250), "float32")
GRAPH = Graph((Operation("d", "Dense", ("x",), ("y",)),), {info.name: info for info in SIDE}, ("x",), ("y",))

CASES: dict[str, tuple[int, Callable[[], None], str]] = {
    "TensorFlow": (599, memory.check_start, "TensorFlow may take 0.6 GB, and 0.6 are free; raise the limit"),
    "a batch": (1, lambda: memory.check_batch(GRAPH, 201), "--batch: a request of 201 images .* at most 200 images"),
    "a model": (1659, lambda: memory.check_model(lambda: 138_357_544), "--model: loading it may take 1.7 GB, and 1.7"),
    "nodes": (649, lambda: memory.check_engines(5, ["eager"], 0), "5 nodes, and the model 1 times .* fewer --servers"),
    "engines": (899, lambda: memory.check_engines(0, ["frozen", "graph"], 0), "may take 0.9 GB"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grouped", [False, True])
def test_what_does_not_fit_is_refused(case: str, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`free` MB are too few and 2 MB more are enough, of the machine or of a control group."""
    free, check, message = CASES[case]

    def leave(available: int) -> None:
        machine = psutil.virtual_memory()._replace(available=10**12 if grouped else available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
        monkeypatch.setattr(control_groups, "read", lambda: Grant(free=available if grouped else 10**12))

    leave(free * MB)
    with pytest.raises(PartitionError, match=message):
        check()
    leave((free + 2) * MB)
    check()


def test_files_that_do_not_fit_into_tmpdir_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=800 * MB))
    memory.check_disk(2, 50 * MB)
    with pytest.raises(
        PartitionError, match=r"TMPDIR: the files of the model may take 1\.2 GB, and 0\.8 are free; set"
    ):
        memory.check_disk(3, 50 * MB)


def test_the_weights_of_a_model_are_counted_without_making_them() -> None:
    before = psutil.Process().memory_info().rss
    assert weights_of("VGG16") == 138_357_544
    assert psutil.Process().memory_info().rss - before < 138_357_544
    assert weights_of(__file__) == Path(__file__).stat().st_size // 4
    assert weights_of("nowhere.keras") == weights_of("nothing") == 0
