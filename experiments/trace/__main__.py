"""`splitbench trace FOLDER`: where the time of traced requests went; their spans for an OpenTelemetry collector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.cli import exit_status
from partitioning.options import Parser, option, options_of
from transports.errors import UsageError

PROG = "python -m experiments.trace"
DESCRIPTION = """\
Show where the time of traced requests went: mean milliseconds by phase, for each cell that was measured with --trace.

trace.json in the same folder has what each process did for the first requests of each cell, span by span. To see it,
open https://ui.perfetto.dev (nothing leaves your browser) or chrome://tracing, and load the file. With --otlp its spans
go to an OpenTelemetry collector (Jaeger, Grafana Tempo, ...), with the ids and times that they have in the file."""

EPILOG = """\
examples:
  splitbench run --transport tcp,grpc --mode submodel --trace --out results/traced
  %(prog)s results/traced
  %(prog)s results/traced --otlp http://localhost:4318    # a collector's port for OTLP over HTTP

exit status: 0 done; 1 the collector took no spans; 2 the folder holds no trace, or a value cannot be used."""


@dataclass(frozen=True)
class TraceOptions:
    """The flags, beside the folder."""

    otlp: Annotated[
        str, option("send the spans to this collector by OTLP over HTTP", "", "report", metavar="URL", min_length=1)
    ] = ""


def read(argv: Sequence[str] | None, prog: str = PROG) -> tuple[Path, TraceOptions]:
    """The folder and the flags in `argv`. Raises `PartitionError` for flags and values that cannot be used."""
    options = options_of(TraceOptions)
    parser = Parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("folder", metavar="FOLDER", help="a results folder of a run with --trace")
    parser.add_options(options.values())
    texts = parser.texts(argv)
    folder = Path(texts.pop("folder"))
    given = {name: options[name].values(text, options[name].flag)[0] for name, text in texts.items()}
    return folder, TraceOptions(**given)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit status: 0 done, 1 the collector took no spans, 2 refused."""
    return exit_status(lambda: _main(argv, prog))


def _main(argv: Sequence[str] | None, prog: str) -> int:
    folder, options = read(argv, prog)
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment wrote")
    if options.otlp:
        from experiments.trace import otlp

        print(f"sent {otlp.send(folder, options.otlp)} spans to {options.otlp}")
    else:
        from experiments.trace import show

        show.show(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
