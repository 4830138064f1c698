"""Temporary folders of this program, and the deletion of folders that killed processes left behind.

Rules:
  - A folder is called `splitbench-<process id>-<8 characters>`. The process that made it holds a lock on the folder
    itself (flock), which the kernel releases however the process ends.
  - `home` makes the folder of a process, and sets it as TMPDIR for the process and its children, so that it also
    contains files that libraries leave behind when a process is killed. `home` also deletes the folders of processes
    that have ended.
  - A folder whose lock is held, or that belongs to another user, is never touched. On a file system without locks, a
    folder is deleted only by the process that made it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r"splitbench-\d+-[a-z0-9_]{8}")
SHORT = Path("/tmp")
"""The parent of folders whose path must be short: a Unix socket's path has at most 107 bytes."""

_home = contextlib.ExitStack()


@functools.cache
def home() -> None:
    """Make a new folder, which is the TMPDIR of this process and its children until it ends or calls `leave`.

    A second call does nothing. Raises `OSError` if no folder can be made.
    """
    for root in {Path(tempfile.gettempdir()), SHORT}:
        sweep(root)
    _home.callback(_set_root, os.environ.get("TMPDIR"))
    _set_root(str(_home.enter_context(folder())))


def leave() -> None:
    """Delete the folder of `home`, and restore TMPDIR."""
    _home.close()
    home.cache_clear()


atexit.register(leave)  # registered before libraries register the removal of their files there, so it runs last


@contextlib.contextmanager
def folder(root: Path | None = None) -> Iterator[Path]:
    """A new folder below `root` (None: TMPDIR), deleted at the end of the block. Raises `OSError`."""
    with contextlib.ExitStack() as stack:
        made = Path(tempfile.mkdtemp(prefix=f"splitbench-{os.getpid()}-", dir=root))
        try:
            stack.callback(os.close, _lock(made))
        except (BlockingIOError, FileNotFoundError):  # another process found it unlocked and deletes it
            made = stack.enter_context(folder(root))
        except OSError:  # the file system does not support locks
            pass
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        yield made


def sweep(root: Path) -> None:
    """Delete the folders below `root` whose processes have ended."""
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            remove_dead(path)


def remove_dead(path: Path) -> None:
    """Delete `path` if it is a folder of this program whose process has ended."""
    if NAME.fullmatch(path.name):
        with contextlib.suppress(OSError):
            lock = _lock(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _set_root(root: str | None) -> None:
    if root is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = root
    tempfile.tempdir = None  # makes `tempfile` read TMPDIR again


def _lock(path: Path) -> int:
    """Lock a folder; returns the descriptor that holds the lock.

    Raises `BlockingIOError` if another process holds the lock, `FileNotFoundError` if the folder is gone (even a
    deleted folder can be locked), and `OSError` if `path` is no folder of this user or cannot be locked.
    """
    with contextlib.ExitStack() as undo:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        undo.callback(os.close, opened)
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(opened)
        if found.st_uid != os.getuid():
            raise PermissionError(path)
        if not os.path.samestat(found, path.stat()):
            raise FileNotFoundError(path)
        undo.pop_all()
    return opened
