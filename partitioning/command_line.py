"""What every command line of this program does at its start and at its end: signals, output, status."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

CLEAN_UP = 10.0
"""Seconds after the first SIGTERM or SIGHUP in which further ones are ignored: a closed terminal sends several signals,
which must not end the clean-up."""
WAKE = signal.SIGURG
"""A signal that nothing else uses and that is ignored unless someone handles it."""
WAKES = 5

Errors = tuple[type[Exception], ...]

_came: list[int] = []
"""The signals that have interrupted this process."""


def exit_status(work: Callable[[], int], refused: Errors, failed: Errors = (), prefix: str = "error") -> int:
    """The status that `work` returns. If `work` raises an error, print it on a line of standard error and return
    the error's status.

    The status is 2 for an error in `refused`, 1 for an error in `failed` and for output that cannot be written, 130 for
    Ctrl-C, SIGTERM and SIGHUP (unless SIGHUP is ignored, as under nohup). Any other error is raised, unless such a
    signal came: a library that is interrupted during its import may raise anything.
    """
    _open_closed()
    _interrupt_by_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text in any encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        reason, status = "the reader of standard output closed it before all was printed", 1
    except refused as error:
        reason, status = str(error), 2
    except failed as error:
        reason, status = str(error), 1
    except KeyboardInterrupt:
        reason, status = "interrupted", 130
    except Exception:
        if not _came:
            raise
        reason, status = "interrupted", 130
    finally:
        _came.clear()
        _drop_unwritten(sys.stdout)
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"{prefix}: {reason}", file=sys.stderr)
    _drop_unwritten(sys.stderr)
    return status


def check_interrupted() -> None:
    """Raise `KeyboardInterrupt` if a signal has come whose `KeyboardInterrupt` was dropped. Exceptions are dropped in
    finalisers, and by libraries during imports."""
    if _came:
        raise KeyboardInterrupt


def console(**settings: Any) -> Console:
    """A console of rich on standard output, which raises `BrokenPipeError` instead of ending the process."""
    from rich.console import Console

    class Raising(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error that is being handled

    return Raising(**settings)


def _interrupt_by_signals() -> None:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt`, as Ctrl-C does."""
    last = -CLEAN_UP

    def ctrl_c(number: int, frame: object) -> None:
        _came.append(number)
        raise KeyboardInterrupt

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last >= CLEAN_UP:
            last = time.monotonic()
            ctrl_c(number, frame)

    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, ctrl_c)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)
    _wake_by_signals()


@functools.cache
def _wake_by_signals() -> None:
    """Let a signal wake the main thread, whichever thread the kernel gives it to.

    Of several signals at once, the kernel gives some to other threads. The interpreter only notes such signals, and a
    main thread that waits for a lock would go on waiting. So an extra thread reads the byte that the interpreter writes
    for each signal, and interrupts the main thread with `WAKE`, whose handler does nothing.
    """
    received, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note, warn_on_full_buffer=False)
    signal.signal(WAKE, lambda *_: None)
    threading.Thread(target=_wake_main_thread, args=(received,), name="signals", daemon=True).start()


def _wake_main_thread(received: int) -> None:
    main = threading.main_thread()
    while number := os.read(received, 1):
        if number[0] != WAKE and main.ident is not None:
            for _ in range(WAKES):  # the main thread may only be about to wait
                signal.pthread_kill(main.ident, WAKE)
                time.sleep(0.05)


def _open_closed() -> None:
    """Open /dev/null in place of standard input, output or error if this program was started without that stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115


def _drop_unwritten(stream: TextIO) -> None:
    """Flush `stream`. Drop what cannot be written, since Python would try to write it again at exit."""
    try:
        stream.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
