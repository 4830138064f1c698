"""An experiment that does not fit into memory is refused, and the error says what would fit."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from experiments import run
from experiments.measure import memory
from experiments.measure.prepare import prepare
from experiments.spec.flags import parse
from partitioning import control_groups
from partitioning.control_groups import Grant
from partitioning.errors import PartitionError
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.models import weights_of
from tests.models import MODELS

MB = 1_000_000
FLAGS = ("--servers", "2", "--runs", "2")
SIDE = TensorInfo("x", (None, 1000), "float32"), TensorInfo("y", (None, 250), "float32")
GRAPH = Graph((Operation("d", "Dense", ("x",), ("y",)),), {info.name: info for info in SIDE}, ("x",), ("y",))

CASES: dict[str, tuple[int, Callable[[], None], str]] = {
    "TensorFlow": (599, memory.check_start, "TensorFlow may take 0.6 GB, and 0.6 are free; raise the limit"),
    "a batch": (1, lambda: memory.check_batch(GRAPH, 201), "--batch: a request of 201 images .* at most 200 images"),
    "a model": (1659, lambda: memory.check_model(lambda: 138_357_544), "--model: loading it may take 1.7 GB, and 1.7"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grouped", [False, True])
def test_what_does_not_fit_is_refused(case: str, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `free` MB free, on the machine or in a control group, the check refuses. With 2 MB more it passes."""
    free, check, message = CASES[case]
    _leave(monkeypatch, free * MB, grouped)
    with pytest.raises(PartitionError, match=message):
        check()
    _leave(monkeypatch, (free + 2) * MB, grouped)
    check()


def _leave(monkeypatch: pytest.MonkeyPatch, available: int, grouped: bool = True) -> None:
    """Let `available` bytes be free, in a control group or on the machine."""
    machine = psutil.virtual_memory()._replace(available=10**12 if grouped else available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(control_groups, "read", lambda: Grant(free=available if grouped else 10**12))


STARTED: Mapping[str, tuple[Sequence[str], set[tuple[str, int, tuple[str, ...]]]]] = {
    "direct calls": (["none"], {("client", 1, ("eager", "frozen", "eager", "frozen"))}),
    "nodes": (
        ["tcp", "--replicas", "2"],
        {
            ("client", 1, ("eager", "frozen")),
            ("registry", 1, ()),
            ("node", 4, ("eager", "frozen", "eager", "frozen")),
        },
    ),
    "plain sockets": (["sockets"], {("client", 1, ("eager", "frozen")), ("socket-server", 2, ("eager", "frozen"))}),
    "Ray actors": (
        ["ray"],
        {("client", 1, ("eager", "frozen")), ("ray-actor", 2, ("eager", "frozen")), ("ray", 1, ())},
    ),
    "Ray's graphs have actors of their own": (
        ["ray,ray-graph"],
        {("client", 1, ("eager", "frozen")), ("ray-actor", 6, 3 * ("eager", "frozen")), ("ray", 1, ())},
    ),
    "TensorFlow's runtime": (
        ["tf-runtime", "--insecure", "on", "--engine", "frozen"],
        {("client", 1, ("frozen",)), ("client", 1, ("graph",)), ("tensorflow-server", 2, ("frozen",))},
    ),
    "model servers": (
        ["tcp", "--engine", "tfserving,tfserving-rest"],
        {("client", 1, ("graph",)), ("registry", 1, ()), ("node", 2, ()), ("model-server", 2, ("tfserving",))},
    ),
    "two modes": (
        ["tcp", "--mode", "layer,submodel", "--engine", "graph"],
        {("client", 1, ("graph",)), ("registry", 1, ()), ("node", 2, ("graph", "graph"))},
    ),
}
"""Case -> words after --transport, and the kind, number and engines of the processes that they start."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    MODELS["sequential"]().save(path)
    return str(path)


@pytest.mark.parametrize("case", STARTED)
def test_what_a_run_starts_is_counted(case: str, small: str) -> None:
    words, started = STARTED[case]
    given = [*FLAGS, *([] if "--engine" in words else ["--engine", "eager,frozen"])]
    given += [] if "--mode" in words else ["--mode", "submodel"]
    experiment, _ = parse(["--model", small, *given, "--transport", *words])
    counted = list(memory.processes(prepare(experiment)))
    assert {(part.kind, part.count, part.engines) for part in counted} == started


def test_the_need_grows_with_processes_weights_and_engines() -> None:
    few, many = memory.Processes("node", 2, ("eager",)), memory.Processes("node", 5, ("eager",))
    frozen = memory.Processes("node", 2, ("frozen",))
    assert memory.needed([few], 100 * MB) < memory.needed([many], 100 * MB) < memory.needed([frozen], 100 * MB)
    assert memory.needed([few], 0) < memory.needed([few], 100 * MB)
    assert memory.needed([few, few], 0) == 2 * memory.needed([few], 0)


REFUSED: Mapping[str, tuple[int, Sequence[str], str]] = {
    "Ray": (1900, ["ray"], r"the run \(4 x ray-actor, 1 x ray\) may take 2\.0 GB, and 1\.9 are free; give fewer"),
    "model servers": (
        700,
        ["tcp", "--engine", "tfserving"],
        r"the run \(1 x registry, 4 x node, 4 x model-server\) may take 0\.8 GB, and 0\.7 are free; give fewer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_does_not_fit_is_refused_before_it_starts(
    case: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free, words, message = REFUSED[case]
    _leave(monkeypatch, free * MB)
    out = tmp_path / "out"
    assert run.main(["--model", small, "--servers", "4", "--transport", *words, "--out", str(out)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


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
