"""A comparison in words and tables: for a terminal, as Markdown, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from experiments.compare.compare import TOO_FEW, Change, Comparison
from experiments.reports import engine_titles
from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, interval, line, number, table
from experiments.reports.terminal import CellTable, wrapped
from experiments.spec.experiment import Cell

FIGURES: Mapping[str, Callable[[Change], str]] = {
    "mean A (s)": lambda each: number(each.means[0], 4),
    "mean B (s)": lambda each: number(each.means[1], 4),
    "x Local A": lambda each: number(each.ratios[0], 4),
    "x Local B": lambda each: number(each.ratios[1], 4),
    "B / A": lambda each: number(each.change, 4),
    "95 %": lambda each: ABSENT if math.isnan(each.low) else f"{number(each.low, 3)}-{number(each.high, 3)}",
    "p": lambda each: probability(each.corrected),
    "verdict": lambda each: each.verdict,
}
OPTIONAL = (("p",), ("mean A (s)", "mean B (s)"), ("x Local A", "x Local B"))
"""Groups of figures that a narrow terminal leaves out, in this order."""
NAMED = 5
"""Most cells that the summary names."""


def probability(p: float) -> str:
    return ABSENT if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


@dataclass(frozen=True)
class Outcome:
    """A comparison, and the notes that are printed with it."""

    comparison: Comparison
    settings: Settings
    folders: tuple[str, str]
    notes: tuple[str, ...]
    """Warnings, and differences between the environments that forbid a comparison."""
    mentioned: tuple[str, ...]
    """Differences that do not forbid a comparison."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, changes = options.max_width, self.comparison.changes
        yield from wrapped([f"A: {self.folders[0]}", f"B: {self.folders[1]}", *self.notes, self.summary()], width)
        yield Text()
        texts = {name: [write(each) for each in changes] for name, write in FIGURES.items()}
        yield CellTable([each.cell for each in changes], self.settings, texts, OPTIONAL, "--out and --csv")
        yield Text()
        yield from wrapped(self.remarks(), width)

    def summary(self) -> str:
        """One sentence: `"2 of 9 cells differ: gRPC is 20.1 % slower, RPyC is 3.2 % faster."`."""
        changes = self.comparison.changes
        found = [each for each in changes if each.differs]
        few = sum(each.verdict == TOO_FEW for each in changes)
        short = f" {few} of them {'has' if few == 1 else 'have'} too few rounds for a verdict." if few else ""
        cells = "1 cell" if len(changes) == 1 else f"{len(changes)} cells"
        if not found:
            return f"None of {cells} differs beyond noise.{short}"
        words = [f"{self.settings.label(each.cell)} is {_percent(each)}" for each in found[:NAMED]]
        words += [f"{len(found) - NAMED} more in the table"] if len(found) > NAMED else []
        return f"{len(found)} of {cells} {'differs' if len(found) == 1 else 'differ'}: {'; '.join(words)}.{short}"

    def remarks(self) -> list[str]:
        """The meaning of the figures, the local models, the cells in only one folder, and other differences."""
        tests = sum(each.verdict != TOO_FEW for each in self.comparison.changes)
        return [
            "B / A is the change of x / Local, with its 95 % interval. The p values are corrected for "
            f"{tests} {'test' if tests == 1 else 'tests'} (Holm); below 0.05 a cell differs.",
            *(self._local(cell, *means) for cell, means in self.comparison.locals.items()),
            *(f"Only in {name}, not compared: {self._list(cells)}." for name, cells in self._only()),
            *([f"Different as well, but no obstacle: {'; '.join(self.mentioned)}."] if self.mentioned else []),
        ]

    def _local(self, cell: Cell, a: float, b: float) -> str:
        seconds = f"{number(a, 4)} s in A, {number(b, 4)} s in B"
        return f"{self.settings.label(cell)}: {seconds}, B / A {number(b / a, 4)} (this compares the machines' states)."

    def _only(self) -> list[tuple[str, Sequence[Cell]]]:
        return [(name, cells) for name, cells in zip("AB", self.comparison.only, strict=True) if cells]

    def _list(self, cells: Iterable[Cell]) -> str:
        return "; ".join(self.settings.label(cell) for cell in cells)

    def markdown(self) -> str:
        """The same as a Markdown page, with every figure."""
        names = dict.fromkeys(FIGURES) | {"95 %": "95 % interval"}
        header = ["Cell", *(new or old for old, new in names.items()), "rounds A", "rounds B"]
        parts = [
            ["# Comparison of two runs"],
            [f"- A: {line(self.folders[0])}", f"- B: {line(self.folders[1])}"],
            *([f"> {line(note)}"] for note in self.notes),
            [line(self.summary())],
            [line(self.settings.constant)],
            table(header, [self._row(each) for each in self.comparison.changes]),
            [f"- {line(text)}" for text in (*self.settings.legend(), *self.remarks())],
        ]
        return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"

    def _row(self, each: Change) -> list[str]:
        texts = {name: line(write(each)) for name, write in FIGURES.items()} | {"95 %": interval(each.low, each.high)}
        return [line(self.settings.label(each.cell)), *texts.values(), *map(str, each.rounds)]

    def csv(self) -> str:
        """A row per cell; seconds for means, 9 significant digits."""
        rows = [
            {"cell": each.cell.name, "verdict": each.verdict, "change": each.change, "low": each.low, "high": each.high}
            | {"p": each.p, "p_corrected": each.corrected}
            | {f"mean_{name}": value for name, value in zip("ab", each.means, strict=True)}
            | {f"x_local_{name}": value for name, value in zip("ab", each.ratios, strict=True)}
            | {f"rounds_{name}": value for name, value in zip("ab", each.rounds, strict=True)}
            for each in self.comparison.changes
        ]
        return pd.DataFrame(rows).to_csv(index=False, float_format="%.9g", lineterminator="\n")


def _percent(each: Change) -> str:
    return f"{number(100 * abs(each.change - 1), 3)} % {each.verdict}"


def settings_of(comparison: Comparison, titles: engine_titles.Titles) -> Settings:
    """Names for all cells of both runs, so that a numbered cut means the same in the table and in the lists."""
    cells = [each.cell for each in comparison.changes]
    return Settings([*cells, *comparison.only[0], *comparison.only[1]], titles)
