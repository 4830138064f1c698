"""`environment.json`: what ran where. It shows whether two experiments may be compared.

It can be published: it holds no user name, no absolute path (paths are relative to the working directory, or cut to
their last part), and no host name other than a given `--host`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import transports
from cluster import facts
from experiments.spec.experiment import Experiment
from experiments.spec.paths import anonymous
from experiments.spec.settings import to_record
from experiments.store import files
from experiments.store.files import replace_file
from transports.errors import SplitbenchError, UsageError

UNCOUNTED = frozenset(name for name in transports.NAMES if name != "none" and not transports.kind(name).crosses_network)
"""Transports between processes whose messages do not cross the loopback interface."""
log = logging.getLogger("splitbench.experiments")

PARTS = ("versions", "system", "processor", "commit", "threads", "variables", "control_group", "keras", "gate", "cards")
"""The entries that hold entries themselves."""
UNFINISHED = "the run did not finish: it is still going on, or it was killed before it could record why"


def begin(
    folder: Path,
    experiment: Experiment | Mapping[str, Any],
    argv: Sequence[str],
    threads: Mapping[str, Any] | None = None,
) -> None:
    """Write the environment at the start of a run, marked as not complete.

    `experiment`: an `Experiment`, or the record of another kind of study. `argv`: the words after the program's name.
    `threads`: TensorFlow's thread settings. Raises `UsageError` if the file exists: another run claimed the folder.
    """
    if (folder / files.ENVIRONMENT).exists():
        raise UsageError(f"--out {folder}: already holds an experiment ({files.ENVIRONMENT}); give another")
    _write(folder, {"complete": False, "failure": UNFINISHED} | collect(experiment, argv, threads or {}))


def update(folder: Path, **entries: Any) -> None:
    """Set entries of the record, atomically. The values must be JSON."""
    _write(folder, read(folder) | entries)


def finish(folder: Path, failure: str = "") -> None:
    """Mark the run as complete, or record the `failure` that ended it."""
    times = {"ended": _now(), "load_at_end": facts.load()}
    update(folder, complete=not failure, failure=anonymous(failure), **times)


@contextlib.contextmanager
def finishing(folder: Path, salvage: Callable[[], object]) -> Iterator[None]:
    """Call `finish` when the block ends. If an error ended it, record the cause and call `salvage`; re-raise it.

    The cause is the text of an expected error; for any other error its type comes first. An error of `salvage` itself
    is only logged.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):  # Ctrl-C, and SIGTERM
            failure = "it was interrupted"
        elif isinstance(error, (SplitbenchError, OSError)):
            failure = str(error)
        else:
            failure = f"{type(error).__name__}: {error}".removesuffix(": ")
        try:
            finish(folder, failure)
            salvage()
        except (SplitbenchError, OSError) as second:
            log.warning("%s: no report of what was measured: %s", folder, second)
        raise
    finish(folder)


def read(folder: Path) -> dict[str, Any]:
    """The record. Raises `UsageError` if the file is missing or is no record of a run."""
    path = folder / files.ENVIRONMENT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give a folder that an experiment wrote") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict) or not {"complete", "failure", "experiment"} <= record.keys():
        raise UsageError(f"{path} is no record of an experiment: it lacks complete, failure or experiment")
    if wrong := [name for name in PARTS if not isinstance(record.get(name) or {}, dict)]:
        raise UsageError(f"{path} is no record of an experiment: {wrong[0]} holds no entries")
    return record


def collect(
    experiment: Experiment | Mapping[str, Any], argv: Sequence[str], threads: Mapping[str, Any]
) -> dict[str, Any]:
    """Every entry that can be recorded at the start of a run."""
    return {
        "started": _now(),
        "ended": None,
        "command": [anonymous(word) for word in argv],
        "experiment": to_record(experiment) if isinstance(experiment, Experiment) else dict(experiment),
        "commit": collect_commit(),
        "versions": facts.versions(),
        "code": facts.code(),
        **{name: found for name, found in facts.facts().items() if name not in ("load", "variables")},
        "load_at_start": facts.load(),
        "load_at_end": None,
        "threads": dict(threads),
        "variables": collect_variables(),
    }


def collect_commit() -> dict[str, Any] | None:
    """The commit of this checkout, and whether tracked files differ from it; `None` if git does not track this file."""
    # If this package is installed inside another project's checkout, git would name that project's commit.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": changed != ""}


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def collect_variables() -> dict[str, str]:
    """Environment variables that change the behaviour of TensorFlow, OpenMP or gRPC, without names of this machine."""
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    return {name: host.sub("localhost", anonymous(text)) for name, text in facts.variables().items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    replace_file(folder / files.ENVIRONMENT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
