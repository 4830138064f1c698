"""Temporary folders: the next process deletes the folders of a killed process, but never those of a living one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import scratch
from tests.running import ROOT

HOLDER = """
import sys, tempfile
from cluster import scratch
scratch.home()
print(tempfile.mkdtemp(), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a folder below `root`, in which a library has made another; and the path of the outer folder."""
    command, pipe = [sys.executable, "-c", HOLDER], subprocess.PIPE
    env = {**os.environ, "TMPDIR": str(root)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip()).parent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, None])
def test_a_folder_lives_as_long_as_its_process_or_until_the_next_one(
    number: signal.Signals | None, tmp_path: Path
) -> None:
    others = [tmp_path / name for name in ("splitbench-mine", f"splitbench-{os.getpid()}-a", "splitbench-1-ABCDEFGH")]
    for path in others:
        path.mkdir()
    with holder(tmp_path) as (process, folder):
        assert folder.parent == tmp_path
        scratch.sweep(tmp_path)
        assert folder.is_dir()
        if number:
            process.send_signal(number)
        process.communicate()
    assert folder.exists() == (number == signal.SIGKILL)
    with holder(tmp_path) as (_, second):
        assert {*tmp_path.iterdir()} == {second, *others}


def test_neither_a_file_nor_a_link_is_deleted(tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    (link := tmp_path / "splitbench-12-abcdefgh").symlink_to(kept)
    (file := tmp_path / "splitbench-13-abcdefgh").touch()
    scratch.sweep(tmp_path)
    scratch.sweep(tmp_path / "nowhere")
    assert {*tmp_path.iterdir()} == {kept, link, file}


def test_without_locks_a_folder_is_made_and_none_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    (old := tmp_path / "splitbench-12-abcdefgh").mkdir()
    with scratch.folder(tmp_path) as made:
        scratch.sweep(tmp_path)
        assert {*tmp_path.iterdir()} == {old, made}
    assert {*tmp_path.iterdir()} == {old}
