"""`environment.json`: what ran where. It shows whether two experiments may be compared.

It can be published: it holds no user name, no absolute path (paths are relative to the working directory, or cut to
their last part), and no host name other than a given `--host`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import transports
from cluster.pinning import affinity
from experiments.spec.experiment import Experiment
from experiments.spec.paths import anonymous
from experiments.spec.settings import to_record
from experiments.store import files
from experiments.store.files import replace_file
from partitioning import keras_settings
from partitioning.control_groups import control_group
from transports.errors import SplitbenchError, UsageError

PACKAGES = (
    *("splitbench", "tensorflow", "keras", "numpy", "scipy", "msgspec", "ml_dtypes", "grpcio", "protobuf", "rpyc"),
    *("ray", "uvicorn", "httptools", "urllib3", "orjson", "pybase64", "tensorflow-serving-api"),
    *("pandas", "pillow", "psutil", "rich", "matplotlib"),
)
VARIABLES = re.compile(r"(TF|TF2|OMP|GRPC|KMP|KERAS|XLA|CUDA|NVIDIA)_\w+")
PRIVATE = re.compile(
    r"TF_(VAR|TOKEN|CLI|CONFIG)\b|TF_(VAR|TOKEN|CLI)_|TOKEN|SECRET|PASS|CREDENTIAL|KEY|CERT|ROOTS|PROXY"
)
"""Variables that are not recorded: Terraform's, which share TensorFlow's prefix, and those that may hold secrets."""
LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface on Linux and on other systems."""
UNCOUNTED = frozenset(name for name in transports.NAMES if name != "none" and not transports.kind(name).crosses_network)
"""Transports between processes whose messages do not cross the loopback interface."""
log = logging.getLogger("splitbench.experiments")

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
    times = {"ended": _now(), "load_at_end": collect_load()}
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
        "versions": collect_versions(),
        "keras": keras_settings.settings(),
        "system": collect_system(),
        "processor": collect_processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "control_group": collect_control_group(),
        "load_at_start": collect_load(),
        "load_at_end": None,
        "threads": dict(threads),
        "variables": collect_variables(),
    }


def collect_commit() -> dict[str, Any] | None:
    """The commit of this checkout, and whether tracked files differ from it; `None` if git does not track this file."""
    # Installed below another project's checkout, git would name that project's commit.
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


def collect_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that affect a measurement; `None` for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def collect_system() -> dict[str, Any]:
    """`loopback_mtu`: the largest packet of the loopback interface in bytes; `None` without such an interface."""
    interfaces = psutil.net_if_stats()
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "implementation": sys.implementation.name,
        "loopback_mtu": next((interfaces[name].mtu for name in LOOPBACK if name in interfaces), None),
    }


def collect_processor() -> dict[str, Any]:
    """Model and cores; `affinity` is the number of logical cores on which this process may run."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return {"model": model, "logical_cores": os.cpu_count(), "affinity": affinity()}


def collect_control_group() -> dict[str, float | None]:
    """What a control group grants to the run; None where no group limits it."""
    grant = control_group()
    return {"cores": grant.cores, "memory_bytes": grant.memory}


def collect_load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(load, 2) for load in psutil.getloadavg()]


def collect_variables() -> dict[str, str]:
    """Environment variables that change the behaviour of TensorFlow, OpenMP or gRPC."""
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    names = [name for name in sorted(os.environ) if VARIABLES.fullmatch(name) and not PRIVATE.search(name)]
    return {name: host.sub("localhost", anonymous(os.environ[name])) for name in names}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    replace_file(folder / files.ENVIRONMENT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
