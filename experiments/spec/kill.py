"""`NODE@REQUEST`: the node that an experiment kills, and when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Kill:
    """The number of a node, and the timed request of each cell before which it is killed."""

    node: int
    request: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`"node-1@20"`, or `"1@20"`. Raises `ValueError`."""
        found = re.fullmatch(r"(?:node-)?(\d{1,9})@(\d{1,9})", text)
        if not found:
            raise ValueError(f"{text!r} is not of the form NODE@REQUEST, for example node-1@20")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """The name of the node's process."""
        return f"node-{self.node}"
