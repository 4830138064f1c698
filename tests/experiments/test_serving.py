"""Experiments whose stages run in model servers: from end to end, records, failures, refusals."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from cluster.model_servers.selection import INTERFACES, OURS, REAL
from experiments import run
from experiments.reports import report
from experiments.reports.engine_titles import SERVERS
from experiments.spec import flags
from experiments.spec.experiment import Cell, local_of
from experiments.store import environment, samples
from experiments.store.statistics import none_of
from partitioning.engine_table import local_engine
from tests.running import Run, assert_gone
from transports.errors import UsageError

SPEC = Path(run.__file__).parent / "specs" / "serving.toml"
MODEL_SERVERS = {"model-server-0", "model-server-1"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for `tensorflow_model_server`: a program that takes the same flags."""
    path = tmp_path_factory.mktemp("program") / "tensorflow_model_server"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m tfserving.server "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def family(going: Run) -> list[psutil.Process]:
    return psutil.Process(going.process.pid).children(recursive=True)


@dataclass(frozen=True)
class Going:
    """A run and its results folder."""

    run: Run
    out: Path


@pytest.fixture(scope="module")
def runs(model: Path, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Going]]:
    """Two runs side by side: over this project's model server, and over the stand-in for `tensorflow_model_server`."""
    ours, real = (tmp_path_factory.mktemp(name) / "out" for name in ("ours", "real"))
    flags: dict[str, tuple[object, ...]] = {
        "ours": (
            *("--servers", 2, "--transport", "none,grpc", "--mode", "whole,submodel", "--cut", "balanced"),
            *("--engine", "tfserving,tfserving-rest,graph", "--flow", "nested,hub", "--concurrency", "1,2"),
            *("--option", "tfserving.binary=none", "--option", "tfserving.tensor_content=true"),
            *("--pin", "on", "--threads", 1, "--runs", 3, "--warmup", 1, "--out", ours),
        ),
        "real": (
            *("--servers", 1, "--transport", "none", "--flow", "hub", "--engine", "tfserving"),
            *("--option", f"tfserving.binary={program}", "--runs", 1_000_000, "--out", real),
        ),
    }
    made = {name: Going(Run("--model", model, *flags[name]), out) for name, out in (("ours", ours), ("real", real))}
    yield made
    for going in made.values():
        if going.run.process.poll() is None:
            going.run.process.kill()
            going.run.process.communicate()


@pytest.mark.slow
def test_stages_in_model_servers(runs: dict[str, Going]) -> None:
    going, out = runs["ours"].run, runs["ours"].out
    going.wait_for(f"model-server-1 ready ({OURS})")
    processes = family(going)
    assert {process.name() for process in processes} >= MODEL_SERVERS
    status, last = going.finish()
    assert status == 0, last
    assert_gone(processes)
    frame = samples.read(out)
    # (none and grpc x submodel, and grpc x whole) x 3 engines x 2 flows x 2 concurrencies; none x whole has no flow,
    # and under graph it is the local model
    assert frame["cell"].nunique() == 3 * 3 * 2 * 2 + 2 * 2 + 1
    assert (frame["deviation"] <= 1e-3).all()
    assert {path.name for path in out.glob("plan-*.json")} == {"plan-whole.json", "plan-submodel.json"}
    record = environment.read(out)["model_server"]
    assert (record["kind"], record["tensor_content"]) == (OURS, True)
    text = (out / "cells.md").read_text(encoding="utf-8")
    assert f"| tfserving-rest ({OURS} over REST) " in text
    assert SERVERS[OURS] in text
    assert f"| tfserving ({OURS})" in text
    assert REAL not in text.replace(SERVERS[OURS], "")
    written = (out / "report.md").read_bytes()
    assert report.build(out).read_bytes() == written


@pytest.mark.slow
def test_a_model_server_that_dies_ends_the_run_with_the_cause(runs: dict[str, Going]) -> None:
    going, out = runs["real"].run, runs["real"].out
    going.wait_for("requests")
    processes = family(going)
    (serving,) = (process for process in processes if "tfserving.server" in process.cmdline())
    serving.kill()
    status, last = going.finish()
    assert status == 1
    assert last.startswith(f"error: model-server-0 ({REAL}) ended with status")
    assert_gone(processes)
    assert len(samples.read(out)) >= 1
    assert environment.read(out)["model_server"]["kind"] == REAL


REFUSED = {
    "a program that is not there": (
        ["tfserving", "tfserving.binary=/nowhere"],
        "'/nowhere' is no program that can be run",
    ),
    "an unknown option": (["tfserving", "tfserving.binray=x"], "did you mean 'binary'?"),
    "no truth value": (["tfserving", "tfserving.tensor_content=maybe"], "'maybe' is no bool"),
    "bytes from the real server": (
        ["tfserving", "tfserving.tensor_content=true", "tfserving.binary={program}"],
        "with lists of values",
    ),
    "bytes over REST": (["tfserving-rest", "tfserving.tensor_content=true"], "over REST no tensor has bytes"),
    "an option of an engine that no cell uses": (
        ["graph", "tfserving.binary=none"],
        "no engine with options 'tfserving' in this experiment",
    ),
    "an option of the other engine's": (["tfserving-rest", "tfserving-rest.binary=none"], "did you mean 'tfserving'?"),
    "an engine": (["tfservin"], "did you mean 'tfserving'?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_values_are_refused(
    case: str, program: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (engine, *options), hint = REFUSED[case]
    words = [word for option in options for word in ("--option", option.format(program=program))]
    out = tmp_path / "out"
    assert run.main(["--model", str(model), "--engine", engine, *words, "--out", str(out)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert hint in last
    assert not out.exists()


@pytest.mark.parametrize("library", ["tensorflow_serving", "orjson", "uvicorn"])
def test_without_the_extra_the_engine_is_refused(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"engine 'tfserving' needs the extra 'serving': pip install '\S+'"):
        flags.parse(["--engine", "tfserving"])
    assert flags.parse(["--engine", "graph"])


def test_the_local_model_of_a_model_server_uses_the_engine_graph() -> None:
    served = Cell("grpc", "submodel", engine="tfserving-rest", batch=8, concurrency=2)
    assert local_engine(served.engine) == "graph"
    assert local_of(served) == Cell("none", "whole", engine="graph", batch=8, servers=1)
    assert none_of(served) == Cell("none", "submodel", engine="graph", batch=8, concurrency=2)
    assert none_of(Cell("none", "submodel", engine="tfserving")) == Cell("none", "submodel", engine="graph")


def test_the_bundled_experiment_has_the_cells_to_compare_with() -> None:
    experiment, _ = flags.parse(["--spec", str(SPEC)])
    served = [cell for cell in experiment.cells if cell.engine in INTERFACES]
    ways = {("none", "hub"), ("grpc", "nested"), ("grpc", "forward")}
    assert {(cell.transport, cell.flow) for cell in served} == ways
    for cell in served:
        assert {none_of(cell), replace(cell, engine="graph")} <= set(experiment.cells)


def test_the_whole_model_in_a_model_server_is_not_the_local_model() -> None:
    words = ["--transport", "none", "--mode", "whole", "--engine", "tfserving,graph", "--flow", "nested,hub"]
    experiment, _ = flags.parse([*words, "--concurrency", "1,2"])
    local = local_of(Cell(engine="graph"))
    served = Cell("none", "whole", engine="tfserving", servers=1)
    assert set(experiment.cells) == {local, served, Cell("none", "whole", engine="tfserving", servers=1, concurrency=2)}


def test_a_files_options_of_an_engine_replaced_by_a_flag_are_ignored(tmp_path: Path) -> None:
    spec = tmp_path / "mine.toml"
    spec.write_text('engine = "tfserving"\n[option]\ntfserving.binary = "none"\ngrpc.max_message = 1000\n')
    experiment, _ = flags.parse(["--spec", str(spec), "--engine", "frozen"])
    assert experiment.option == {"grpc.max_message": "1000"}
    assert flags.parse(["--spec", str(spec)])[0].option["tfserving.binary"] == "none"
