"""`python -m experiments.report FOLDER`: derive tables, report and chart of a results folder again."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.cli import exit_status
from partitioning.options import Parser
from transports.errors import UsageError

PROG = "python -m experiments.report"
DESCRIPTION = """\
Derive tables, report and chart again from the measured files of any results folder: samples.csv or threads.csv,
environment.json, faults.csv and ladder.csv. The same files give the same bytes. Prints the path of the report."""

EPILOG = """\
examples:
  %(prog)s results/reference/seed-layer
  %(prog)s results/mine

exit status: 0 done; 1 a file cannot be written; 2 the folder holds no results."""

BUILDERS: Mapping[str, str] = {
    "loadgen": "experiments.loadgen.report",
    "simulate": "experiments.simulate.report",
    "profile": "experiments.profile.report",
    "simulation-check": "experiments.simulate.compared",
    "sizes": "experiments.sizes.report",
    "threads": "experiments.threads.report",
}
"""Kind of a record other than an experiment's -> the module whose `build` derives the files of its folder."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Build a report. Exit status: 0, 1 if the report could not be written, 2 if there is nothing to report."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return exit_status(lambda: _main(argv, prog))


def _main(argv: Sequence[str] | None, prog: str) -> int:
    parser = Parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("folder", metavar="FOLDER", help="a results folder")
    folder = Path(parser.texts(argv)["folder"])
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment wrote")
    from experiments.store import environment  # pandas takes its time: not for --help

    record = environment.read(folder)["experiment"]
    kind = record.get("kind", "") if isinstance(record, dict) else ""
    print(importlib.import_module(BUILDERS.get(kind, "experiments.reports.report")).build(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
