"""Numbers and Markdown tables as text: significant digits, aligned columns, escaped cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

ABSENT = "—"
"""Stands for a value that was not measured."""


def number(value: float, digits: int = 5) -> str:
    """`value` with that many significant digits and without an exponent: 0.54863, 1.4200, 12346."""
    if not math.isfinite(value):
        return ABSENT
    return format(Decimal(f"{value:.{digits - 1}e}"), "f") if value else "0"


def count(value: float) -> str:
    """A mean of counts: `number` without trailing zeros after the point."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(low: float, high: float) -> str:
    """`"2.512 to 2.601"`."""
    return ABSENT if math.isnan(low) or math.isnan(high) else f"{number(low, 4)} to {number(high, 4)}"


def line(text: str) -> str:
    """`text` on one line, with the special characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def text(title: str, parts: Iterable[Sequence[str]]) -> str:
    """A page: its title, and each of `parts` that has lines."""
    return "\n\n".join("\n".join(part) for part in [[f"# {line(title)}"], *parts] if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a table whose first `left` columns are aligned to the left and whose others to the right.

    The cells are Markdown: the caller passes other text through `line`.
    """
    body = [list(row) for row in rows]
    widths = [max(3, *(len(row[place]) for row in [list(header), *body])) for place in range(len(header))]
    rule = [("-" * width if place < left else "-" * (width - 1) + ":") for place, width in enumerate(widths)]
    return [_row(row, widths, left) for row in [list(header), rule, *body]]


def _row(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    padded = [
        cell.ljust(width) if place < left else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
