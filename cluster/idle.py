"""What idle processors of this machine do: sleep as the system decides, or poll for work.

A processor that sleeps needs time to wake up, so a message waits for its receiver. On a virtual machine, where each
sleep is a call of the hypervisor, this can take longer than the message itself.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

from transports.errors import UsageError

IDLE = ("system", "poll")
REQUESTS = Path("/dev/cpu_dma_latency")
"""Linux's file for requests of the longest wake-up. A request holds while its process keeps the file open."""
DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
NO_WAIT = struct.pack("i", 0)
"""The request that wake-ups take 0 microseconds."""


@contextlib.contextmanager
def idling(choice: str) -> Iterator[None]:
    """Let idle processors do what `choice`, one of `IDLE`, says while the block runs, or until this process ends.

    Raises `UsageError` where this system has no such request, or refuses it to this user.
    """
    if choice == "system":
        yield
        return
    try:
        driver = DRIVER.read_text().strip()
        file = REQUESTS.open("wb", buffering=0)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise UsageError(f"--idle poll: {reason}; it needs Linux and root; valid: system") from None
    with file:
        if driver == "none":
            raise UsageError("--idle poll: this kernel has no driver for idle processors; valid: system")
        file.write(NO_WAIT)
        yield


def check(choice: str) -> None:
    """Raise `UsageError` as `idling` does, before anything is started."""
    with idling(choice):
        pass
