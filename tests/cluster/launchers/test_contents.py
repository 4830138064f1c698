"""The files of a fork server and their cache, without a process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cluster.launchers.contents import CACHED, Contents, user_cache


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def add(contents: Contents, data: bytes, pieces: int = 2) -> str:
    size = -(-len(data) // pieces)
    for place in range(pieces):
        piece = data[place * size : (place + 1) * size]
        contents.add(digest(data), place * size, piece, last=place == pieces - 1)
    return digest(data)


def test_another_fork_server_lacks_only_what_is_in_no_cache(tmp_path: Path) -> None:
    first, second = (Contents(tmp_path / name, tmp_path / "cache") for name in ("first", "second"))
    kept, other = add(first, b"kept"), digest(b"other")
    assert second.lacking([kept, other]) == [other]
    second.link(kept, tmp_path / "files" / "a" / "b")
    assert (tmp_path / "files" / "a" / "b").read_bytes() == b"kept"
    assert Contents(tmp_path / "third", None).lacking([kept]) == [kept]


def test_what_is_not_whole_or_not_what_was_announced_is_not_cached(tmp_path: Path) -> None:
    contents = Contents(tmp_path / "one", tmp_path / "cache")
    contents.add(digest(b"half"), 0, b"ha", last=False)
    contents.add(digest(b"another"), 0, b"wrong", last=True)
    assert [*(tmp_path / "cache").iterdir()] == []


def test_a_damaged_file_is_deleted_and_asked_for(tmp_path: Path) -> None:
    kept = add(Contents(tmp_path / "one", tmp_path / "cache"), b"kept")
    (tmp_path / "cache" / kept).write_bytes(b"kepT")
    assert Contents(tmp_path / "two", tmp_path / "cache").lacking([kept]) == [kept]
    assert not (tmp_path / "cache" / kept).exists()


def test_what_was_used_least_recently_leaves_a_full_cache(tmp_path: Path) -> None:
    """The large files have no blocks on the disk."""
    contents = Contents(tmp_path / "one", cache := tmp_path / "cache")
    for age, name in enumerate(("newest", "middle", "oldest")):
        with (cache / name).open("wb") as file:
            file.truncate(CACHED // 3)
        os.utime(cache / name, (1e9 - age, 1e9 - age))
    kept = add(contents, b"just too much")
    assert {path.name for path in cache.iterdir()} == {"newest", "middle", kept}


def test_the_cache_may_be_cleared_while_a_fork_server_runs(tmp_path: Path) -> None:
    kept = add(Contents(tmp_path / "one", tmp_path / "cache"), b"kept")
    contents = Contents(tmp_path / "two", tmp_path / "cache")
    assert contents.lacking([kept]) == []
    (tmp_path / "cache" / kept).unlink()
    assert contents.lacking([kept]) == []
    contents.link(kept, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_the_cache_lies_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "splitbench" / "contents"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert user_cache() == Path.home() / ".cache" / "splitbench" / "contents"
