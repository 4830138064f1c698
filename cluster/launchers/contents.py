"""The files that a fork server was sent, by content, and a cache of them that outlives it.

    FOLDER/contents/SHA-256     what this fork server's processes may name in their documents
    CACHE/SHA-256               the same for the experiments to come; verified before each use

A file enters FOLDER as a link to the cached one, or as a copy on another file system, so that another experiment may
clear the cache at any time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cluster.manifest import digest

CACHED = 4 * 2**30
"""Bytes that the cache keeps: those used last."""


def user_cache() -> Path:
    """The cache of this user on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splitbench" / "contents"


class Contents:
    """The store of one fork server. `cache`: None keeps nothing."""

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self._folder = folder
        self._cache = cache
        folder.mkdir(parents=True, exist_ok=True)
        if cache is not None:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lacking(self, wanted: Iterable[str]) -> list[str]:
        """Those of `wanted` (SHA-256) that neither the folder nor the cache has. A damaged file is deleted."""
        return [sha256 for sha256 in wanted if not (self._folder / sha256).exists() and not self._fetch(sha256)]

    def add(self, sha256: str, offset: int, data: bytes, last: bool) -> None:
        """Write a piece of a content; pieces come in sequence. The cache takes it once it is whole and verified."""
        path = self._folder / sha256
        with path.open("ab" if offset else "wb") as file:
            file.write(data)
        if last and self._cache is not None and digest(path) == sha256:
            with contextlib.suppress(OSError):  # a full disk, or another experiment that has cached it meanwhile
                _link(path, self._cache / sha256)
                self._shrink()

    def link(self, sha256: str, to: Path) -> None:
        """Make the content available as the file `to`."""
        to.parent.mkdir(parents=True, exist_ok=True)
        os.link(self._folder / sha256, to)

    def _fetch(self, sha256: str) -> bool:
        """Take the content from the cache; False if it is not there."""
        if self._cache is None:
            return False
        cached = self._cache / sha256
        with contextlib.suppress(OSError):
            if digest(cached) == sha256:
                os.utime(cached)
                _link(cached, self._folder / sha256)
                return True
            cached.unlink()
        return False

    def _shrink(self) -> None:
        """Delete what was used least recently, until the cache is within `CACHED`."""
        assert self._cache is not None
        found = sorted((path for path in self._cache.iterdir()), key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in found)
        for path in found:
            if size <= CACHED:
                return
            size -= path.stat().st_size
            path.unlink()


def _link(source: Path, target: Path) -> None:
    """Link, or copy to another file system, so that `target` is whole from the first moment."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as copy:
            shutil.copyfile(source, copy.name)
        Path(copy.name).replace(target)
