"""The head of a Ray cluster on this machine: a process that starts Ray's daemons, and ends all that belongs to them.

Ray's workers are in process groups of their own and its semaphores outlive it. So the head adopts orphans: whatever
ends first, every process of the cluster is a descendant of the head, which kills them all, then deletes the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from cluster.config import RayConfig
from transports.address import Address

PR_SET_CHILD_SUBREAPER = 36
"""Of prctl(2): orphaned descendants become children of this process."""
FOLDER = "SPLITBENCH_RAY_FOLDER"
"""The environment variable that tells workers where the exports lie."""
LONGEST = 32
"""Characters of a folder below which the paths of Ray's sockets stay within the 107 that a Unix socket may have."""
SHARED = Path("/dev/shm")


def variables(token: str) -> dict[str, str]:
    """The environment variables of every process that belongs to the cluster or connects to it."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals, which Ray replaces when it starts. To be used in the main thread."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def serve(config: RayConfig, stack: contextlib.ExitStack) -> Mapping[str, Address]:
    """Start Ray; it ends with `stack`. Returns the address that programs connect to."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    root = tempfile.gettempdir()
    home = Path(tempfile.mkdtemp(prefix="splitbench-ray-", dir=root if len(root) <= LONGEST - 23 else "/tmp"))
    stack.callback(_end, home)
    os.environ.update(variables(config.token))
    os.environ[FOLDER] = config.folder
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path or str(Path.cwd()) for path in sys.path))
    import ray

    with kept_handlers():
        ray.init(
            address="local",
            num_cpus=1,  # actors need none; Ray starts a spare worker for each
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(home),
        )
    return {"gcs": Address.parse(ray.get_runtime_context().gcs_address)}


def _end(home: Path) -> None:
    """Kill every process below this one, then delete what they leave: semaphores and files."""
    raylets: set[int] = set()
    while below := psutil.Process().children(recursive=True):
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                raylets |= {process.pid} if process.name() == "raylet" else set()
                process.kill()
        psutil.wait_procs(below)
    for raylet in raylets:  # the names of a compiled graph's semaphores begin with the raylet's process id
        for path in SHARED.glob(f"sem.*{raylet}-*"):
            path.unlink(missing_ok=True)
    shutil.rmtree(home, ignore_errors=True)
