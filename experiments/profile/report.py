"""report.md of a profile, derived from its files, and the same tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.reports import sections
from experiments.reports.labels import transport_title
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.store import files
from experiments.store import profile as store
from experiments.store.files import replace_file
from experiments.store.profile import MISFIT, Profile
from partitioning import command_line
from partitioning.part_costs import Estimate, Runs

HOW_TO_READ = [
    "## How to read this",
    "",
    "- **whole**: the model as one run of operations, as a node executes it, at full speed: a host's share of a core "
    "is no part of a profile.",
    "- **a further run**: what two runs, at any position, take longer than the whole.",
    "- **derived runs**: runs between two positions are derived from those at the ends; the largest difference to one "
    "that was measured, over the whole.",
    "- **a message**: a call of a node and its small answer, there and back, in two processes of this machine, without "
    "the work of the stage. **a byte**: one way. **misfit**: the median relative distance of these two figures from "
    f"the intervals of the messages that were measured; above {100 * MISFIT:.0f} % a transport is hardly predicted.",
]


@dataclass(frozen=True)
class Grid:
    """A table; its first column is text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def for_terminal(self) -> Table:
        made = Table(box=SIMPLE_HEAD, title=self.title)
        for place, heading in enumerate(self.head):
            made.add_column(heading, justify="right" if place else "left")
        for row in self.rows:
            made.add_row(*row)
        return made

    def lines(self) -> list[str]:
        return [f"## {line(self.title)}", "", *table(self.head, [[line(cell) for cell in row] for row in self.rows])]


def build(folder: Path) -> Path:
    """Write report.md into `folder` and return its path. Raises `UsageError` if it holds no profile."""
    found = store.read(folder)
    parts = [
        [f"# Profile of {line(found.experiment.model)}"],
        [f"Engine {found.engine}, batch {found.batch}, {len(found.graph.operations)} operations."],
        *(grid.lines() for grid in grids(found)),
        HOW_TO_READ,
        sections.machine(found.record, {}),
    ]
    replace_file(folder / files.REPORT, "\n\n".join("\n".join(part) for part in parts if part) + "\n")
    return folder / files.REPORT


def show(folder: Path) -> None:
    """Print the tables of the profile in `folder`."""
    console = command_line.console()
    for grid in grids(store.read(folder)):
        console.print(grid.for_terminal())
    console.print(f"profile: {folder}; what to do with it: splitbench advise --profile {folder}", soft_wrap=True)


def grids(found: Profile) -> list[Grid]:
    """The tables of hosts and of transports."""
    hosts = ("host", "whole (ms)", "95 %", "a further run (ms)", "derived runs (%)", "memory (MB)")
    transports = ("transport", "a message (ms)", "95 %", "a byte (ns)", "95 %", "misfit (%)")
    return [
        Grid("Hosts", hosts, [_host(found, name) for name in found.names]),
        Grid("Transports", transports, [_transport(found, name) for name in found.transports]),
    ]


def _host(found: Profile, name: str) -> list[str]:
    runs = found.runs_of(name)
    built = int(found.hosts.loc[found.hosts["host"] == name, "built_bytes"].iloc[0])
    further, gap = number(1e3 * runs.joint.value, 3), derived_gap(runs)
    shown = ABSENT if gap is None else number(100 * gap, 2)
    return [name, *_scaled(runs.seconds(0, runs.operations), 1e3), further, shown, number(built / 1e6, 3)]


def derived_gap(runs: Runs) -> float | None:
    """The largest difference between a measured run and the same run derived from others, over the seconds of the whole
    model; None without measured runs to compare."""
    inner = [run for run in runs.measured if run[0] and run[1] < runs.operations]
    ends = Runs({run: value for run, value in runs.measured.items() if run not in inner}, runs.operations)
    whole = runs.seconds(0, runs.operations).value
    return max((abs(ends.seconds(*run).value - runs.measured[run].value) / whole for run in inner), default=None)


def _transport(found: Profile, name: str) -> list[str]:
    cost = found.message_cost(name)
    return [transport_title(name), *_scaled(cost.call, 1e3), *_scaled(cost.byte, 1e9), number(100 * cost.misfit, 2)]


def _scaled(value: Estimate, scale: float) -> tuple[str, str]:
    low, high = (number(scale * max(0.0, end), 3) for end in (value.low, value.high))
    return number(scale * value.value, 3), f"{low} to {high}"
