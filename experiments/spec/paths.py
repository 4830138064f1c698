"""Paths in results. A record must not reveal the machine's folders, and it must be UTF-8, which a path need not be.

Bytes that are no UTF-8 are recorded as escapes: `\\udcff` stands for the byte 0xff.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_PATH = re.compile(r"(?<![\w./:])(?:~|/|[A-Za-z]:\\)[^\s'\",:;=()]*")


def portable(path: str | Path) -> str:
    """`path` relative to the working directory; only its name, if it is outside of that directory."""
    full = Path(path).resolve()
    return _text(full.relative_to(Path.cwd()).as_posix() if full.is_relative_to(Path.cwd()) else full.name)


def anonymous(text: str) -> str:
    """`text` with `portable` applied to every absolute path in it."""
    return _text(_PATH.sub(lambda found: _short(found[0]) or "/", text))


def nameless(options: Mapping[str, str]) -> dict[str, str]:
    """`options` with `portable` applied to absolute paths. A value that begins like a path is taken as one path, even
    with blanks in it."""
    return {key: _short(text) if text.startswith(("/", "~")) else anonymous(text) for key, text in options.items()}


def _short(path: str) -> str:
    try:
        return portable(Path(path).expanduser())
    except RuntimeError:  # ~NAME of an unknown user
        return _text(Path(path).name)


def _text(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()
