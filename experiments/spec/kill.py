"""`NODE@REQUEST`: a fault that is part of an experiment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Kill:
    """Which node dies, and before which timed request of each cell."""

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
        """The node's, among the processes of the cluster."""
        return f"node-{self.node}"
