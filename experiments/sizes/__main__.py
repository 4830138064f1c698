"""`python -m experiments.sizes`: how the time of a message grows with its size, over every transport."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import transports
from cluster.idle import IDLE
from experiments.cli import exit_status
from experiments.spec.flags import timestamp
from partitioning.options import SWITCH, Parser, option
from transports.process import MALLOC

PROG = "python -m experiments.sizes"
DESCRIPTION = """\
Time messages of growing size over every transport.

One float32 tensor goes to another process and back, over each transport in each of its codecs, and over gRPC both in
one piece (unary) and in chunks (stream). The results answer:
  - What does a transport cost for a small message, and per megabyte?
  - Is the growth linear, or faster? RPyC's defaults copy the rest of a message for each 64 kB of it, which is
    quadratic; rpyc-tuned is the same protocol without these defaults.
  - From which size on is grpc.send=stream faster than unary?
  - With --bare: what does this project add to an echo of the library alone, written as its users write it?

Samples are written one by one; summary.csv, report.md and sizes.svg are derived from them at the end of a run, or later
with --report FOLDER."""

EPILOG = """\
examples:
  %(prog)s                                    # 0.01 to 64 MB, over everything
  %(prog)s --transport grpc,rpyc-tuned --max 600 --out results/large
  %(prog)s --transport grpc --sizes 1,1.5,2,3,4 --repeats 20
  %(prog)s --transport rpyc --max 64 --longest 60   # the defaults, to the end
  %(prog)s --bare --sizes 0.0001,0.01,0.2,1,8   # each transport beside its library alone
  %(prog)s --report results/large

exit status: 0 done; 1 the run failed, and what was measured is kept; 2 a value cannot be used; 130 interrupted."""


REMOTE = tuple(name for name in transports.NAMES if name != "none")


@dataclass(frozen=True)
class SizesOptions:
    """The options of a study of sizes."""

    transport: Annotated[tuple[str, ...], option("transports to time", metavar="NAME,...", shown=",".join(REMOTE))] = (
        REMOTE
    )
    codec: Annotated[
        tuple[str, ...], option("codecs to time", metavar="NAME,...", shown="all that the transports have")
    ] = ()
    max: Annotated[float, option("the largest size, after 0.01, 0.03, ...", metavar="MB")] = 64.0
    sizes: Annotated[tuple[float, ...], option("these sizes instead", metavar="MB,...")] = ()
    repeats: Annotated[
        int,
        option("rounds, each with a new process that echoes; a round has one turn of each transport and size", ge=1),
    ] = 5
    longest: Annotated[float, option("leave out sizes whose calls take longer", gt=0, unit="seconds")] = 5.0
    seed: Annotated[int, option("seed of the noise and of the order", ge=0)] = 0
    option: Annotated[
        tuple[str, ...], option("an option of one transport; may be repeated", metavar="NAME.KEY=VALUE", repeat=True)
    ] = ()
    bare: Annotated[str, option("time each library's own echo as well, without this project", valid=SWITCH)] = "off"
    malloc: Annotated[str, option("keep freed memory for the next message, or return it", valid=MALLOC)] = MALLOC[0]
    idle: Annotated[str, option("idle processors sleep as the system decides, or poll (root)", valid=IDLE)] = IDLE[0]
    out: Annotated[
        str, option("where results go", metavar="FOLDER", shown="results/<UTC timestamp>-sizes", min_length=1)
    ] = ""
    report: Annotated[
        str, option("derive the report of earlier results again; measures nothing", metavar="FOLDER", min_length=1)
    ] = ""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run one study; the exit status: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def read(argv: Sequence[str], prog: str = PROG) -> SizesOptions:
    """The options that `argv` gives. Raises `PartitionError` for a value that cannot be used."""
    return Parser(prog, DESCRIPTION, EPILOG).read(SizesOptions, argv)


def _main(words: Sequence[str], prog: str) -> int:
    given = read(words, prog)
    from experiments.sizes import report, study  # not for --help, nor for flags that are refused

    folder = Path(given.report or given.out or f"results/{timestamp()}-sizes")
    if not given.report:
        study.run(study.study_of(given), folder, words)
    print(f"results: {folder} (begin with {report.build(folder).name})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
