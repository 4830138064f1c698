"""Result files that are rewritten as a whole: a reader finds the old one or the new one, never a part."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transports.errors import SplitbenchError

__all__ = ["WriteError", "replace_file"]


class WriteError(SplitbenchError):
    """A result could not be written; the text names the file and the cause (exit status 1)."""


def replace_file(path: Path, content: str) -> None:
    """Make `content` the text of `path`, atomically. Raises `WriteError`; the old file is then still there."""
    new: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            new = Path(file.name)
            file.write(content.encode())
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise WriteError(f"cannot write {path}: {error.strerror}") from error
