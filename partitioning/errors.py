"""What a person can act on: a model, a plan, a file or a name that cannot be used. Imports no TensorFlow."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PartitionError(ValueError):
    """Something that cannot be partitioned; the text names the reason and what would work."""


def suggest(word: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'Conv_1'?"`, or nothing where no valid word is near. Case does not count."""
    names = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
