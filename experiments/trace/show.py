"""The phases of a traced run on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.reports import engine_titles
from experiments.reports.markdown import ABSENT, number
from experiments.reports.phases import Traced
from experiments.spec.settings import from_record
from experiments.store import environment, files, phases, samples, trace_file
from experiments.store.statistics import summarise
from partitioning import command_line
from transports.errors import UsageError


def show(folder: Path) -> None:
    """Print the table of phases, and how to view the spans. Raises `UsageError` for a folder without a trace."""
    record, measured, found = environment.read(folder), samples.read(folder), phases.read(folder)
    if found.empty:
        raise UsageError(f"{folder}: no phases were measured ({files.PHASES}); measure again with --trace")
    trace = trace_file.read(folder)
    summary = summarise(measured, from_record(record["experiment"]).seed)
    console = command_line.console()
    console.print("Mean milliseconds of a request, and the percentage of each phase", soft_wrap=True)
    console.print(_table(Traced.of(found, summary, engine_titles.titles_of(record))))
    if not trace.complete:
        console.print("INCOMPLETE: the run did not finish; this is what it had measured", soft_wrap=True)
    path = folder / files.TRACE
    console.print(f"spans of each process: load {path} at https://ui.perfetto.dev", soft_wrap=True)


def _table(traced: Traced) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("cell")
    for name in ("ms", *traced.shown):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, label in zip(traced.cells, traced.labels, strict=True):
        seconds = traced.whole[cell.name]
        request = sum(seconds[name] for name in phases.PHASES)
        shares = (100 * seconds[name] / request for name in traced.shown)
        table.add_row(label, number(1e3 * request, 3), *(f"{share:.1f}" if share else ABSENT for share in shares))
    return table
