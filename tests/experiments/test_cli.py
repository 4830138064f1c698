"""The command `splitbench`: its list of commands, its help, and what every command refuses."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import COMMANDS, exit_status, main
from partitioning.errors import PartitionError
from tests.running import ROOT
from transports.errors import ConnectionLost, UsageError

HEAVY = {"tensorflow", "keras", "numpy", "pandas", "rich", "matplotlib", "grpc", "rpyc", "uvicorn", "urllib3", "orjson"}


def splitbench(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process. The last line of its standard error names the modules that it loaded."""
    code = "import atexit, sys, experiments.cli as cli; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    command = [sys.executable, "-c", f"{code}; sys.exit(cli.main(sys.argv[1:]))", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]], ids=str)
def test_without_a_command_it_lists_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in out
        assert text in out
    assert "examples:" in out
    assert "exit status: 0 done" in out


def test_the_module_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: splitbench COMMAND")


def test_the_console_script_is_this_program() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    name, _, target = config["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert name == "splitbench"
    assert getattr(importlib.import_module(module), function) is main


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_and_loads_no_heavy_library(command: str) -> None:
    done = splitbench(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: splitbench {command}")
    assert f"  splitbench {command} " in done.stdout[done.stdout.index("examples:") :]
    assert "exit status: 0 " in done.stdout
    assert not HEAVY & set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("word", "near"), [("runs", "did you mean 'run'?"), ("exports", "did you mean 'export'?"), ("xyz", "valid: run,")]
)
def test_an_unknown_command_is_refused_with_the_nearest(
    word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: no command {word!r}; ")
    assert near in err
    assert err.count("\n") == 1


REFUSED = {
    "run": (["--runs", "5", "--runs", "6"], "--runs: given twice; give it once"),
    "ladder": (["--runs", "5", "--runs", "6"], "--runs: given twice; give it once"),
    "show": (["--mode", "layer", "--mode", "whole"], "--mode: given twice; give it once"),
    "export": (["--to", "a", "--to", "b"], "--to: given twice; give it once"),
    "report": (["a", "b"], "no flag 'b'"),
    "compare": (["a", "b", "--csv", "c", "--csv", "d"], "--csv: given twice; give it once"),
    "profile": (["--rounds", "5", "--rounds", "6"], "--rounds: given twice; give it once"),
    "advise": (["--goal", "latency", "--goal", "throughput"], "--goal: given twice; give it once"),
    "loadgen": (["--scenario", "server", "--scenario", "offline"], "--scenario: given twice; write several values"),
    "simulate": (["a", "--hosts", "2", "--hosts", "each"], "--hosts: given twice; give it once"),
    "sizes": (["--max", "1", "--max", "2"], "--max: given twice; give it once"),
    "threads": (["--depth", "4", "--depth", "5"], "--depth: given twice; give it once"),
    "trace": (["a", "--otlp", "b", "--otlp", "c"], "--otlp: given twice; give it once"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_repeated_flag_is_refused_before_anything_is_loaded(command: str) -> None:
    words, reason = REFUSED[command]
    done = splitbench(command, *words)
    *lines, loaded = done.stderr.splitlines()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(lines) == 1
    assert reason in lines[0]
    assert "tensorflow" not in loaded.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_flag_is_refused_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {"report": ["results"], "trace": ["results"], "compare": ["a", "b"], "export": ["--to", "nowhere"]}
    assert main([command, *needed.get(command, []), "--colour", "red"]) == 2
    err = capsys.readouterr().err
    assert "no flag '--colour'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (PartitionError("stage 's' cannot be frozen"), 2, "error: stage 's' cannot be frozen"),
        (UsageError("--runs: 0 is too small"), 2, "error: --runs: 0 is too small"),
        (ConnectionLost("the peer went away"), 1, "error: the peer went away"),
        (OSError("the disk is full"), 1, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert exit_status(fail) == status
    assert capsys.readouterr().err == f"{line}\n"


def test_the_status_of_a_command_is_that_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "give a folder that an experiment" in capsys.readouterr().err
