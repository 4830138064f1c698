"""`splitbench compare A B`: finds the cells that differ between two results folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.cli import exit_status
from partitioning.options import SWITCH, Parser, option, options_of

PROG = "python -m experiments.compare"
DESCRIPTION = """\
Say which cells differ between two results folders, by how much, and with what confidence.

Cells with equal settings are compared by x / Local, their ratio to the local model of the same run, because the seconds
of two runs also differ with the state of the machine. The change B / A has a 95 % interval. A cell differs if its
p value, corrected for the number of cells, is below 0.05. This says that the two runs differ, not why: before you
blame a change to the program, repeat both runs.

Runs whose environments differ in what x / Local depends on (processor, cores, versions, threads, model, input, options)
are refused, with what differs; --anyway compares them nevertheless."""

EPILOG = """\
examples:
  %(prog)s results/before results/after
  %(prog)s results/before results/after --out change.md --csv change.csv
  %(prog)s results/before results/after --fail-if-slower 5     # for continuous integration
  %(prog)s results/grpc-1.80 results/grpc-1.85 --anyway        # versions differ on purpose

exit status: 0 compared, whether or not cells differ; 1 a cell is slower than --fail-if-slower allows, or a file cannot
be written; 2 the folders cannot be compared; 130 interrupted."""

NEVER = -1.0


@dataclass(frozen=True)
class CompareOptions:
    """The flags of a comparison, beside the two folders."""

    anyway: Annotated[str, option("compare even if the environments differ, and list what differs", valid=SWITCH)] = (
        "off"
    )
    out: Annotated[
        str, option("also write the comparison as Markdown", "", "report", metavar="FILE.md", min_length=1)
    ] = ""
    csv: Annotated[str, option("also write the figures", "", "report", metavar="FILE.csv", min_length=1)] = ""
    fail_if_slower: Annotated[
        float,
        option(
            "exit status 1 if a cell is slower and its whole interval is above this percentage",
            ge=0,
            le=10**6,
            unit="percent",
            shown="never",
        ),
    ] = NEVER


@dataclass(frozen=True)
class Request:
    """The two folders and the flags of a command line."""

    a: str
    b: str
    options: CompareOptions


def read(argv: Sequence[str] | None, prog: str = PROG) -> Request:
    """The request in `argv`. Raises `PartitionError` for flags and values that cannot be used."""
    options = options_of(CompareOptions)
    parser = Parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("a", metavar="A", help="results folder of the earlier run, or of the base")
    parser.add_argument("b", metavar="B", help="results folder of the later run")
    parser.add_options(options.values())
    texts = parser.texts(argv)
    a, b = texts.pop("a"), texts.pop("b")
    given = {name: options[name].values(text, options[name].flag)[0] for name, text in texts.items()}
    return Request(a, b, CompareOptions(**given))


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit status: 0 compared, 1 a cell is slower than allowed or a file cannot be written, 2 refused."""
    return exit_status(lambda: _main(argv, prog))


def _main(argv: Sequence[str] | None, prog: str) -> int:
    request = read(argv, prog)
    options = request.options
    from rich.console import Console  # not for --help, nor for flags that are refused

    from experiments.compare import runs
    from experiments.store.files import replace_file

    outcome = runs.outcome_of(runs.read(request.a), runs.read(request.b), anyway=options.anyway == "on")
    Console(highlight=False).print(outcome)
    if options.out:
        replace_file(Path(options.out), outcome.markdown())
    if options.csv:
        replace_file(Path(options.csv), outcome.csv())
    if options.fail_if_slower == NEVER:
        return 0
    slower = [each for each in outcome.comparison.changes if each.slower_by_more_than(options.fail_if_slower)]
    for each in slower:
        print(f"slower by more than {options.fail_if_slower:g} %: {each.cell.name}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
