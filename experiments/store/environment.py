"""What ran where: `environment.json`, from which one judges whether two experiments may be compared.

No user name, no absolute path and no host name of the machine goes into it, but for a `--host` that was given, so that
it can be published: paths are relative to the working directory, or only their last part is kept.
"""

from __future__ import annotations

import contextlib
import json
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

from cluster.pinning import usable
from experiments.spec.experiment import Experiment
from experiments.spec.paths import anonymous
from experiments.spec.settings import to_record
from experiments.store import files
from experiments.store.files import replace_file
from transports.errors import SplitbenchError, UsageError

PACKAGES = (
    *("splitbench", "tensorflow", "keras", "numpy", "ml_dtypes", "grpcio", "protobuf", "rpyc"),
    *("h11", "orjson", "pybase64", "tensorflow-serving-api"),
    *("pandas", "pillow", "psutil", "rich", "matplotlib"),
)
VARIABLES = re.compile(r"(TF|TF2|OMP|GRPC|KMP|KERAS|XLA|CUDA)_\w+")
PRIVATE = re.compile(
    r"TF_(VAR|TOKEN|CLI|CONFIG)\b|TF_(VAR|TOKEN|CLI)_|TOKEN|SECRET|PASS|CREDENTIAL|KEY|CERT|ROOTS|PROXY"
)
"""Names that say nothing of TensorFlow (Terraform shares its prefix), or whose values may be nobody's business."""
LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface on Linux and on others."""
UNFINISHED = "the run did not finish: it is still going on, or was killed before it could say why"


def begin(
    folder: Path,
    experiment: Experiment | Mapping[str, Any],
    argv: Sequence[str],
    threads: Mapping[str, Any] | None = None,
) -> None:
    """Write the environment at the start of a run, marked as not complete.

    `experiment` may be the record of one of another kind; `argv` is what followed the program's name; `threads` are
    TensorFlow's thread settings, as the run set or found them. Raises `UsageError` where the folder has such a file:
    another run was faster.
    """
    if (folder / files.ENVIRONMENT).exists():
        raise UsageError(f"--out {folder}: already holds an experiment ({files.ENVIRONMENT}); give another")
    _write(folder, {"complete": False, "failure": UNFINISHED} | collect(experiment, argv, threads or {}))


def update(folder: Path, **entries: Any) -> None:
    """Set entries of the record, atomically. The values are what JSON takes."""
    _write(folder, read(folder) | entries)


def finish(folder: Path, failure: str = "") -> None:
    """Mark the run as complete, or say by which `failure` it is not."""
    times = {"ended": _now(), "load_at_end": collect_load()}
    update(folder, complete=not failure, failure=anonymous(failure), **times)


@contextlib.contextmanager
def finishing(folder: Path, salvage: Callable[[], object]) -> Iterator[None]:
    """Around the measuring: `finish` however it ends, and where that is not well, `salvage` what was measured."""
    failure = ""
    try:
        yield
    except BaseException as error:
        failure = _cause(error)
        raise
    finally:
        finish(folder, failure)
        if failure:
            salvage()


def _cause(error: BaseException) -> str:
    """Why a run ended, for its record: what was foreseen says so itself, anything else by its type as well."""
    if isinstance(error, KeyboardInterrupt):  # Ctrl-C, and SIGTERM
        return "it was interrupted"
    foreseen = isinstance(error, (SplitbenchError, OSError))
    return str(error) if foreseen else f"{type(error).__name__}: {error}".removesuffix(": ")


def read(folder: Path) -> dict[str, Any]:
    """The record. Raises `UsageError` where there is none, or it is no record of a run."""
    path = folder / files.ENVIRONMENT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; give a folder that an experiment has written"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict) or not {"complete", "failure", "experiment"} <= record.keys():
        raise UsageError(f"{path} is no record of an experiment: it lacks complete, failure or experiment")
    return record


def collect(
    experiment: Experiment | Mapping[str, Any], argv: Sequence[str], threads: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that is known at the start of a run."""
    return {
        "started": _now(),
        "ended": None,
        "command": [anonymous(word) for word in argv],
        "experiment": to_record(experiment) if isinstance(experiment, Experiment) else dict(experiment),
        "commit": collect_commit(),
        "versions": collect_versions(),
        "system": collect_system(),
        "processor": collect_processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": collect_load(),
        "load_at_end": None,
        "threads": dict(threads),
        "variables": collect_variables(),
    }


def collect_commit() -> dict[str, Any] | None:
    """The commit of the checkout that this file belongs to, and whether tracked files differ from it; else `None`."""
    here = Path(__file__)
    # Installed into somebody else's checkout, this file would be told that checkout's commit.
    if _git("ls-files", "--error-unmatch", here.name) is None:
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
    """Versions of Python and of the packages that bear on a measurement; `None` for one that is not there."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def collect_system() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "implementation": sys.implementation.name,
        "loopback_mtu": _loopback_mtu(),
    }


def _loopback_mtu() -> int | None:
    """The largest packet of the loopback interface in bytes; `None` where there is none."""
    found = psutil.net_if_stats()
    return next((found[name].mtu for name in LOOPBACK if name in found), None)


def collect_processor() -> dict[str, Any]:
    """Model and cores; `affinity` is how many of the logical cores this process may use."""
    return {"model": _processor_model(), "logical_cores": os.cpu_count(), "affinity": usable()}


def _processor_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def collect_load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(load, 2) for load in psutil.getloadavg()]


def collect_variables() -> dict[str, str]:
    """Environment variables that change how TensorFlow, OpenMP or gRPC work."""
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    found = {
        name: value
        for name, value in sorted(os.environ.items())
        if VARIABLES.fullmatch(name) and not PRIVATE.search(name)
    }
    return {name: host.sub("localhost", anonymous(value)) for name, value in found.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    replace_file(folder / files.ENVIRONMENT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
