"""`python -m experiments.report FOLDER`: derive summary.csv, report.md and comparison.svg of a results folder again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import exit_status
from partitioning.options import Parser

PROG = "python -m experiments.report"
DESCRIPTION = """\
Derive summary.csv, report.md and comparison.svg from samples.csv and environment.json (after kills, faults.csv too).
The same samples give the same bytes. The place of the report is printed."""

EPILOG = """\
examples:
  %(prog)s results/reference/seed-layer
  %(prog)s results/mine

exit status: 0 done; 1 a file cannot be written; 2 the folder holds no results."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Build a report. Exit status: 0, 1 if the report could not be written, 2 if there is nothing to report."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return exit_status(lambda: _main(argv, prog))


def _main(argv: Sequence[str] | None, prog: str) -> int:
    parser = Parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("folder", metavar="FOLDER", help="a results folder")
    folder = Path(parser.texts(argv)["folder"])
    from experiments.reports.report import build  # pandas takes its time: not for --help

    print(build(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
