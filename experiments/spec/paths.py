"""Paths as others may read them: what is written down of a run tells nothing of the machine's folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_PATH = re.compile(r"(?<![\w./:])(?:~|/|[A-Za-z]:\\)[^\s'\",:;=()]*")


def portable(path: str | Path) -> str:
    """`path` as others may read it: below the working directory it is relative, elsewhere only its name is kept."""
    full = Path(path).resolve()
    return full.relative_to(Path.cwd()).as_posix() if full.is_relative_to(Path.cwd()) else full.name


def anonymous(text: str) -> str:
    """`text` with every absolute path in it made portable, so that it tells nothing of this machine."""
    return _PATH.sub(lambda found: _short(found[0]) or "/", text)


def nameless(options: Mapping[str, str]) -> dict[str, str]:
    """`options` whose values are no absolute paths any more; one may have blanks in it, as a value is all of it."""
    return {key: _short(text) if text.startswith(("/", "~")) else anonymous(text) for key, text in options.items()}


def _short(path: str) -> str:
    try:
        return portable(Path(path).expanduser())
    except RuntimeError:  # ~NAME of a user who is not there
        return Path(path).name
