"""Temporary folders of this program, and what a killed process leaves of them.

Rules:
  - A folder is called `splitbench-<process id>-<8 characters>`. The process that made it holds a lock of the folder
    itself (flock), which the kernel releases however the process ends.
  - `home` is the folder of a process, and TMPDIR of all that it starts: what libraries leave there when a process is
    killed lies in it too. Making it deletes the folders of processes that have ended.
  - A folder whose lock is held, or that belongs to another user, is never touched. On a file system without locks no
    folder is deleted but by the process that made it.
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
"""For folders whose path must be short. A Unix socket's path has at most 107 bytes."""

_home = contextlib.ExitStack()


@functools.cache
def home() -> None:
    """Make a new folder the TMPDIR of this process and of those that it starts, until it ends or calls `leave`.

    A second call does nothing. Raises `OSError` if no folder can be made.
    """
    for root in {Path(tempfile.gettempdir()), SHORT}:
        sweep(root)
    _home.callback(_set_root, os.environ.get("TMPDIR"))
    _set_root(str(_home.enter_context(folder())))


def leave() -> None:
    """Delete the folder of `home`; TMPDIR is what it was before."""
    _home.close()
    home.cache_clear()


atexit.register(leave)  # before a library registers the removal of its own files in that folder, so that it runs last


@contextlib.contextmanager
def folder(root: Path | None = None) -> Iterator[Path]:
    """A new folder below `root` (None: TMPDIR), deleted at the end of the block. Raises `OSError`."""
    with contextlib.ExitStack() as stack:
        made = Path(tempfile.mkdtemp(prefix=f"splitbench-{os.getpid()}-", dir=root))
        try:
            stack.callback(os.close, _lock(made))
        except (BlockingIOError, FileNotFoundError):  # another process deletes it, which looked before it was locked
            made = stack.enter_context(folder(root))
        except OSError:  # the file system has no locks
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
    tempfile.tempdir = None  # looked up anew


def _lock(path: Path) -> int:
    """A descriptor that holds the lock of the folder.

    Raises `BlockingIOError` if another process holds it, `FileNotFoundError` if the folder is gone (the lock of a
    deleted folder can be had, too), and `OSError` for what is no folder of this user or cannot be locked.
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
