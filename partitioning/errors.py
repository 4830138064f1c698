"""`PartitionError`, helpers for its texts, and the import of a user's modules. Imports no TensorFlow."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path


class PartitionError(ValueError):
    """A model, plan, file or name cannot be used; the text gives the reason and what would work."""


def suggest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'Conv_1'?"`, or an empty text if no valid word is similar. Case is ignored."""
    names = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def one_line(error: BaseException, most: int = 200) -> str:
    """Type and text of an error on one line of at most `most` characters.

    The text of an error in traced code begins with a stack; its last line is used. Codes of terminal colours are left
    out.
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    text = text.splitlines()[-1] if text.startswith("in user code") else text
    text = " ".join(f"{type(error).__name__}: {text}".split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register a model's own classes, also from the working directory.

    Raises `PartitionError` for a module that cannot be imported.
    """
    here = str(Path.cwd())
    for name in names:
        if here not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except Exception as error:  # A module may raise anything while it is imported.
            raise PartitionError(f"--import {name}: the module cannot be imported: {one_line(error)}") from error
