"""Commands that end early: by a signal, by a closed terminal, by an output without a reader."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from experiments.store import environment, files
from tests.running import ROOT, Run, assert_gone

FOREVER: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "ladder": (
        ("--model", "MODEL", "--mode", "submodel", "--servers", "2", "--transport", "tcp", "--runs", "1000000"),
        *("requests", files.LADDER),
    ),
    "loadgen": (
        ("--model", "MODEL", "--mode", "submodel", "--servers", "2", "--transport", "tcp", "--min-duration", "1000"),
        *("requests", files.SAMPLES),
    ),
    "sizes": (("--transport", "tcp", "--sizes", "0.01", "--repeats", "1000000"), "requests", files.SAMPLES),
    "threads": (
        ("--transport", "tcp", "--depth", "20", "--servers", "2", "--when-full", "refuse"),
        "2 of",
        files.THREADS,
    ),
}
"""Command -> arguments that make it run for long, a text that it prints once it has measured, and the measured file."""


def assert_kept(out: Path, file: str) -> None:
    """An interrupted command has left its record, the measured file and the report."""
    assert environment.read(out)["complete"] is False
    assert len((out / file).read_text().splitlines()) > 1
    assert "**INCOMPLETE**: it was interrupted" in (out / files.REPORT).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", FOREVER)
def test_a_hangup_ends_a_command_in_order(command: str, model: Path, tmp_path: Path) -> None:
    """A shell that is closed sends several signals; the later signals must not cut the clean-up short."""
    words, text, file = FOREVER[command]
    (temporary := tmp_path / "tmp").mkdir()
    given = [str(model) if word == "MODEL" else word for word in words]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with Run(*given, "--out", tmp_path / "out", module=f"experiments.{command}", env=env) as going:
        going.wait_for(text)
        processes = psutil.Process(going.process.pid).children(recursive=True)
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            going.process.send_signal(number)
        assert going.finish() == (130, "error: interrupted")
    assert_gone(processes)
    assert_kept(tmp_path / "out", file)
    assert [*temporary.iterdir()] == []


BLOCKED = """
import queue, signal, sys, threading
from experiments.cli import exit_status

def other():
    print("ready", flush=True)
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)

def work():
    threading.Thread(target=other, daemon=True).start()
    queue.SimpleQueue().get()

sys.exit(exit_status(work))
"""


def test_a_signal_that_another_thread_gets_wakes_the_main_thread() -> None:
    """If several signals arrive at once, the kernel gives some of them to threads other than the main one."""
    command = [sys.executable, "-c", BLOCKED]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.communicate("\n", timeout=20)
            assert process.returncode == 130
        finally:
            process.kill()


IMPORTING = """
import os, signal, sys
from experiments.cli import exit_status

def work():
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    except KeyboardInterrupt:
        raise ImportError("numpy._core.umath failed to import") from None

sys.exit(exit_status(work))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_library_that_turns_the_interrupt_into_its_own_error_hides_nothing(name: str) -> None:
    """As numpy does when a signal arrives while it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


DROPPING = """
import os, signal, sys
from experiments.cli import exit_status
from partitioning.command_line import check_interrupted

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def work():
    check_interrupted()
    Dropped()
    print("still here", flush=True)
    check_interrupted()

sys.exit(exit_status(work))
"""


def test_an_interrupt_that_a_finaliser_drops_is_noticed_before_the_next_block() -> None:
    command = [sys.executable, "-c", DROPPING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "still here\n")
    assert done.stderr.endswith("error: interrupted\n")


def take_terminal() -> None:
    """Make standard error the controlling terminal of this process, which leads its session."""
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_in_order(model: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    words = ["--model", str(model), "--mode", "submodel", "--servers", "2", "--transport", "tcp", "--runs", "1000000"]
    command = [sys.executable, "-m", "experiments.run", *words, "--out", str(tmp_path / "out")]
    env = {**os.environ, "TMPDIR": str(temporary), "TERM": "dumb"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as process:
        os.close(theirs)
        with os.fdopen(ours, encoding="utf-8") as terminal:
            assert any("requests" in line for line in terminal)
            processes = psutil.Process(process.pid).children(recursive=True)
        assert process.wait(60) == 130
    assert_gone(processes)
    assert_kept(tmp_path / "out", files.SAMPLES)
    assert [*temporary.iterdir()] == []


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    """nohup starts commands in this way. The echo process ignores hangups, too."""
    words = ("--transport", "tcp", "--sizes", "8,16,32", "--repeats", "4", "--out", tmp_path / "out")
    with Run(*words, module="experiments.sizes", preexec_fn=ignore_hangups) as going:
        going.wait_for("requests")
        for process in (going.process, *psutil.Process(going.process.pid).children()):
            process.send_signal(signal.SIGHUP)
        assert going.finish()[0] == 0
    assert environment.read(tmp_path / "out")["complete"] is True


WORK = """
import sys
from experiments.cli import exit_status
sys.exit(exit_status(lambda: print("x" * 10**6, "\\udcff") or 0))
"""
OUTPUTS = {
    "whose reader ends": ("| true", 1, ["error: the reader of standard output closed it before all was printed"]),
    "on a full disk": ("> /dev/full", 1, ["error: [Errno 28] No space left on device"]),
    "that is not open": (">&- <&-", 0, []),
    "in ASCII": ("> /dev/null", 0, []),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_output_that_takes_not_everything_costs_one_line(case: str) -> None:
    where, status, lines = OUTPUTS[case]
    script = f'"$0" -c "$1" {where}; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = ["bash", "-c", script, sys.executable, WORK]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (status, lines)
