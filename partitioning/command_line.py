"""What every command line of this program does at its start and at its end: signals, output, status."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

CLEAN_UP = 10.0
"""Seconds after the first SIGTERM or SIGHUP in which further ones are ignored: a closed terminal sends several, which
must not end the clean-up."""

Errors = tuple[type[Exception], ...]


def exit_status(work: Callable[[], int], refused: Errors, failed: Errors = (), prefix: str = "error") -> int:
    """The status that `work` returns, or, with one line on standard error, that of the error that it raises.

    2 for an error in `refused`, 1 for one in `failed` and for output that cannot be written, 130 for Ctrl-C, SIGTERM
    and SIGHUP (unless that is ignored, as nohup does). Any other error is raised.
    """
    _interrupt_by_signals()
    _open_closed()
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
    finally:
        _drop_unwritten(sys.stdout)
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"{prefix}: {reason}", file=sys.stderr)
    _drop_unwritten(sys.stderr)
    return status


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

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last >= CLEAN_UP:
            last = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)


def _open_closed() -> None:
    """Open /dev/null in the place of standard input, output or error if this program was started without it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115


def _drop_unwritten(stream: TextIO) -> None:
    """Write what `stream` holds; what cannot be written is dropped, for Python would try again at its exit."""
    try:
        stream.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
