"""The head of a Ray cluster on this machine: a process that starts Ray's daemons, and ends all of Ray's processes.

Ray's workers are in process groups of their own, and its semaphores outlive it. So the head adopts orphaned processes:
whichever process ends first, every process of the cluster remains a descendant of the head, which kills them all and
then deletes the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import psutil

from cluster import scratch
from cluster.config import RayConfig
from transports.address import Address
from transports.errors import SplitbenchError
from transports.process import StopSignal

PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 36, 1
"""Options of prctl(2): adopt orphaned descendants as children; set the signal for a process whose parent ends."""
PAUSE = 0.1
"""Seconds between two checks of whether Ray has started."""
FOLDER = "SPLITBENCH_RAY_FOLDER"
"""The environment variable that tells workers the folder of the exports."""
LONGEST = 9
"""Most characters of the temporary folder's path, so that Ray's Unix sockets below it have paths of at most 107."""
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
    """Restore this process's signal handlers, which Ray replaces when it starts. For the main thread only."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def serve(config: RayConfig, stack: contextlib.ExitStack, stop: StopSignal) -> Mapping[str, Address]:
    """Start Ray; it ends with `stack`. Returns the address for programs to connect to, none if `stop` was set before.

    Raises `SplitbenchError` if Ray does not start; the log says why.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    root = Path(tempfile.gettempdir())
    home = stack.enter_context(scratch.folder(root if len(str(root)) <= LONGEST else scratch.SHORT))
    stack.callback(_end)
    come, go = os.pipe()
    if os.fork() == 0:
        _start(config, home, go)
    os.close(go)
    with os.fdopen(come, encoding="utf-8") as pipe:
        while not select.select([pipe], [], [], 0)[0]:
            if stop.wait(PAUSE):
                return {}
        address = pipe.read()
    if not address:
        raise SplitbenchError("Ray did not start")
    return {"gcs": Address.parse(address)}


def _start(config: RayConfig, home: Path, pipe: int) -> NoReturn:
    """In a child: start Ray's daemons, write their address, and wait to be killed.

    Ray's library starts threads and sets signal handlers, which may block or end its process when a daemon has ended.
    It is loaded in the child alone, so that nothing keeps the head from cleaning up.
    """
    try:
        os.setsid()  # signals to the head's group must not end daemons before the head does
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(variables(config.token))
        os.environ[FOLDER] = config.folder
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path or str(Path.cwd()) for path in sys.path))
        import ray

        ray.init(
            address="local",
            num_cpus=1,  # actors need none; Ray starts a spare worker for each
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(home),
        )
        os.write(pipe, ray.get_runtime_context().gcs_address.encode())
        os.close(pipe)
        while True:
            signal.pause()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end() -> None:
    """Kill every descendant of this process, then delete the semaphores that they leave behind."""
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
