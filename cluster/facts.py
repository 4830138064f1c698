"""Facts about the machine of this process: versions, processor, memory, load. Reading them does not load TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from cluster.pinning import affinity
from partitioning import keras_settings
from partitioning.control_groups import control_group
from transports.process import ROOT

PACKAGES = (
    *("splitbench", "tensorflow", "keras", "numpy", "scipy", "msgspec", "ml_dtypes", "grpcio", "protobuf", "rpyc"),
    *("ray", "uvicorn", "httptools", "urllib3", "orjson", "pybase64", "tensorflow-serving-api", "cryptography"),
    *("pandas", "pillow", "psutil", "rich", "matplotlib", "lz4", "zstandard", "blosc2", "zfpy"),
)
OWN = ("cluster", "partitioning", "tfserving", "transports")
"""The packages of this program that run on every host."""
VARIABLES = re.compile(r"(TF|TF2|OMP|GRPC|KMP|KERAS|XLA|CUDA|NVIDIA)_\w+")
PRIVATE = re.compile(
    r"TF_(VAR|TOKEN|CLI|CONFIG)\b|TF_(VAR|TOKEN|CLI)_|TOKEN|SECRET|PASS|CREDENTIAL|KEY|CERT|ROOTS|PROXY"
)
"""Environment variables that are not recorded: Terraform's (same prefix as TensorFlow's), and possible secrets."""
LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface on Linux and on other systems."""


def facts() -> dict[str, Any]:
    """The facts that a result records about each host."""
    return {
        "system": system(),
        "processor": processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "control_group": granted(),
        "load": load(),
        "keras": keras_settings.settings(),
        "variables": variables(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that affect a measurement; `None` for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def code() -> str:
    """The first digits of a SHA-256 over the source of the packages `OWN`; equal for equal programs."""
    digest = hashlib.sha256()
    for path in sorted(path for name in OWN for path in (ROOT / name).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def system() -> dict[str, Any]:
    """The operating system. `loopback_mtu`: bytes of the loopback interface's largest packet; None if there is none."""
    interfaces = psutil.net_if_stats()
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "implementation": sys.implementation.name,
        "loopback_mtu": next((interfaces[name].mtu for name in LOOPBACK if name in interfaces), None),
    }


def processor() -> dict[str, Any]:
    """The processor's model and cores. `affinity`: the number of logical cores on which this process may run."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return {"model": model, "logical_cores": os.cpu_count(), "affinity": affinity()}


def granted() -> dict[str, float | None]:
    """The resources that a control group grants to this process; None if no group limits a resource."""
    grant = control_group()
    return {"cores": grant.cores, "memory_bytes": grant.memory}


def load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(load, 2) for load in psutil.getloadavg()]


def variables() -> dict[str, str]:
    """Environment variables that change the behaviour of TensorFlow, OpenMP or gRPC."""
    names = [name for name in sorted(os.environ) if VARIABLES.fullmatch(name) and not PRIVATE.search(name)]
    return {name: os.environ[name] for name in names}
