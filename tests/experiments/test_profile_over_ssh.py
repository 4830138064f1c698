"""A profile of hosts that are reached by ssh, and advice from the links that it measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.advise.__main__ import main as advise
from experiments.store import environment
from experiments.store import profile as store
from tests.lab import Lab, lab, needs_ssh
from tests.running import Run

pytestmark = [needs_ssh, pytest.mark.slow]


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    with lab() as made:
        yield made


def test_each_host_is_profiled_and_nothing_is_left(
    machines: Lab, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (
        "--model",
        model,
        "--engine",
        "frozen",
        "--transport",
        "tcp",
        "--positions",
        3,
        "--rounds",
        5,
        "--out",
        out,
    )
    with Run(*machines.flags(), *words, module="experiments.profile", within=machines.client) as going:
        status, last = going.finish()
    assert status == 0, last
    machines.assert_nothing_left([])
    found = store.read(out)
    assert len(found.names) == 2
    assert all(found.runs_of(name).positions for name in found.names)
    assert environment.read(out)["machines"]["ways"]["before"]
    assert advise(["--profile", str(out), "--top", "50"]) == 0
    printed = capsys.readouterr().out
    assert all(f"whole on {name}" in printed for name in found.names)
    assert "no link is given" not in printed, "the links are those measured"
    assert advise(["--profile", str(out), "--verify", "--out", str(tmp_path / "verified")]) == 2
    assert "give them: --hosts FILE" in capsys.readouterr().err
