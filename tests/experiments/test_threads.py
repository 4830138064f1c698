"""Workers of nested calls, with real processes: the predicted minimum is the observed one."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from experiments.store import environment, files, rows
from experiments.threads import __main__ as threads
from experiments.threads import report as threads_report


def observe(out: Path, when_full: str, timeout: str) -> str:
    """Run the demonstration with a short chain, with results in `out`. Returns its standard output."""
    words = ["--transport", "grpc", "--depth", "4", "--servers", "2", "--when-full", when_full, "--timeout", timeout]
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setenv("COLUMNS", "120")  # room for the whole table
        assert threads.main([*words, "--out", str(out)]) == 0
    return text.getvalue()


@pytest.fixture(scope="module")
def waited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results folder of a run whose servers let calls wait, and its standard output."""
    out = tmp_path_factory.mktemp("wait") / "out"
    return out, observe(out, "wait", "4")


@pytest.mark.slow
def test_too_few_workers_block_only_nested_calls(waited: tuple[Path, str]) -> None:
    _, out = waited
    assert "predicted 2, observed 2" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split() and line.split()[0].isdigit()}
    assert "blocks" in rows["1"]
    assert rows["1"].count("completes") == 2
    assert all(rows[workers].count("completes") == 3 for workers in ("2", "3"))


@pytest.mark.slow
def test_a_results_folder_has_samples_report_and_environment(
    waited: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = waited
    assert {path.name for path in folder.iterdir()} == {"threads.csv", "report.md", "report.html", "environment.json"}
    record = environment.read(folder)
    assert (record["complete"], record["failure"], record["predicted"]) == (True, "", 2)
    header, *lines = (folder / "threads.csv").read_text().splitlines()
    assert header == "workers,flow,outcome,seconds"
    assert sorted(line.rsplit(",", 1)[0] for line in lines if "nested" in line) == [
        "1,nested,blocks",
        "2,nested,completes",
        "3,nested,completes",
    ]
    before = (folder / "report.md").read_bytes()
    assert threads_report.build(folder).read_bytes() == before
    text = before.decode()
    assert "a chain of 4 layers assigned to 2 servers in turn, over gRPC, with a deadline of 4 s" in text
    assert "predicted 2, observed 2." in text
    assert len(re.findall(r"\| +completes ", text)) == 8  # padded if the seconds of another row have a digit more
    assert threads.main(["--out", str(folder)]) == 2
    assert "already holds an experiment" in capsys.readouterr().err


def test_the_report_of_an_interrupted_run(tmp_path: Path) -> None:
    chain = threads.Chain("rpyc", 12, 3, 2.0, "refuse")
    environment.begin(tmp_path, chain.record(), [])
    with rows.Writer(tmp_path / files.THREADS, threads_report.COLUMNS) as writer:
        writer.append(threads_report.Outcome(1, "hub", "completes", 0.25))
    environment.finish(tmp_path, "it was interrupted")
    text = threads_report.build(tmp_path).read_text()
    assert "**INCOMPLETE**: it was interrupted" in text
    assert "completes 0.250 s" in text
    assert "refuses a call" in text


@pytest.mark.slow
def test_servers_that_do_not_wait_refuse_calls_without_a_free_worker(tmp_path: Path) -> None:
    assert "refused" in observe(tmp_path / "out", "refuse", "30")
    outcomes = (tmp_path / "out" / files.THREADS).read_text()
    assert "1,nested,refused" in outcomes
    assert "blocks" not in outcomes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth", "0"], "--depth: 0 is too small; valid: 1 to 100"),
        (["--depth", "101"], "--depth: 101 is too large; valid: 1 to 100"),
        (["--servers", "9", "--depth", "3"], "no more servers than the chain is deep"),
        (["--timeout", "0"], "--timeout: 0 is too small; valid: more than 0, up to 86400 seconds"),
        (["--timeout", "nan"], "--timeout: 'nan' is no number"),
        (["--timeout", "inf"], "--timeout: 'inf' is no number"),
        (["--timeout", "1e300"], "--timeout: 1e+300 is too large; valid: more than 0, up to 86400 seconds"),
        (["--out", __file__], "not a folder"),
    ],
)
def test_unusable_values_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert threads.main(words) == 2
    assert message in capsys.readouterr().err
