"""The demonstration of blocked workers, with real processes: what is predicted is what is seen."""

from __future__ import annotations

import pytest

from experiments import threads


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is as wide as it likes, whatever the terminal."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.slow
def test_too_few_workers_block_nested_calls_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--transport", "grpc", "--depth", "4", "--servers", "2", "--timeout", "4"]
    assert threads.main(words) == 0
    out = capsys.readouterr().out
    assert "predicted 2, observed 2" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split() and line.split()[0].isdigit()}
    assert "blocks" in rows["1"]
    assert rows["1"].count("completes") == 2
    assert all(rows[workers].count("completes") == 3 for workers in ("2", "3"))


@pytest.mark.slow
def test_too_few_workers_are_refused_at_once_where_servers_do_not_wait(capsys: pytest.CaptureFixture[str]) -> None:
    assert threads.main(["--depth", "4", "--servers", "2", "--when-full", "refuse", "--timeout", "30"]) == 0
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--depth", "0"], ["--servers", "9", "--depth", "3"], ["--timeout", "0"]])
def test_what_cannot_be_used_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert threads.main(words) == 2
    assert "error: give a depth" in capsys.readouterr().err
