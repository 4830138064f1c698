"""`python -m cluster.model_servers.supervisor COMMAND...`: runs a program that must not outlive the one that wanted it.

It ends the program when its own standard input closes, be it that whoever started it is done, or was killed; and it
ends with the program's exit status. On Linux the kernel also kills the program should the keeper itself be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

GRACE = 5.0
"""Seconds that the program has to end by itself before it is killed."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command of this process's arguments; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing runs beside this yet, which is what makes the hook safe.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_wait_for_eof, args=(child,), daemon=True).start()
    return child.wait()


def _die_with_parent() -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_eof(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
