"""The files that a fork server has received, stored by content, and a cache of them that outlives the fork server.

    FOLDER/contents/SHA-256     contents that this fork server's processes may name in their documents
    CACHE/SHA-256               contents for later experiments; verified before each use

A file in FOLDER is a hard link to the cached file, or a copy if the cache is on another file system, so that another
experiment may clear the cache at any time.
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
"""Most bytes in the cache. It keeps the files that were used last."""


def user_cache() -> Path:
    """The cache of this user on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splitbench" / "contents"


class Contents:
    """The store of one fork server. `cache`: the cache's folder; None: there is no cache."""

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self._folder = folder
        self._cache = cache
        folder.mkdir(parents=True, exist_ok=True)
        if cache is not None:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lacking(self, wanted: Iterable[str]) -> list[str]:
        """The contents in `wanted` (SHA-256) that neither folder nor cache has. Deletes damaged files."""
        return [sha256 for sha256 in wanted if not (self._folder / sha256).exists() and not self._fetch(sha256)]

    def add(self, sha256: str, offset: int, data: bytes, last: bool) -> None:
        """Write a piece of a content; pieces come in sequence. A complete content is verified and cached."""
        path = self._folder / sha256
        with path.open("ab" if offset else "wb") as file:
            file.write(data)
        if last and self._cache is not None and digest(path) == sha256:
            with contextlib.suppress(OSError):  # the disk is full, or another experiment has cached the file meanwhile
                _link(path, self._cache / sha256)
                self._shrink()

    def link(self, sha256: str, to: Path) -> None:
        """Make the content available as the file `to`."""
        to.parent.mkdir(parents=True, exist_ok=True)
        os.link(self._folder / sha256, to)

    def _fetch(self, sha256: str) -> bool:
        """Link the content from the cache into the folder; False if the cache does not have it."""
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
        """Delete the least recently used files until the cache is within `CACHED`."""
        assert self._cache is not None
        found = sorted((path for path in self._cache.iterdir()), key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in found)
        for path in found:
            if size <= CACHED:
                return
            size -= path.stat().st_size
            path.unlink()


def _link(source: Path, target: Path) -> None:
    """Link `source` as `target`, or copy it from another file system, so that `target` never exists incomplete."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as copy:
            shutil.copyfile(source, copy.name)
        Path(copy.name).replace(target)
