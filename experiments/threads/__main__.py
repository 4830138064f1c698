"""`python -m experiments.threads`: how many workers nested calls need, and what happens with fewer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import transports
from experiments.cli import exit_status
from partitioning import keras_settings
from partitioning.options import Parser, option
from transports.errors import UsageError
from transports.limits import DAY, WHEN_FULL

PROG = "python -m experiments.threads"
DESCRIPTION = """\
Show how many workers nested calls need, and what happens with fewer.

A server has a fixed number of workers. In the flow nested a worker waits while its call is answered further down the
chain. Once a chain of calls reaches a server more often than it has workers, the request blocks until its deadline
(--when-full wait, as gRPC's own servers do) or is refused at once (--when-full refuse, the default of every
experiment). The flows hub and forward hold no worker while they wait.

A chain of small layers is assigned to the servers in turn, so that each call goes to another server. For each number of
workers, real processes are started with that number, and each flow makes one request. --out keeps each outcome in a
results folder with a report."""

EPILOG = """\
examples:
  %(prog)s                                            # twelve layers on three servers, over gRPC
  %(prog)s --transport rpyc --depth 4 --servers 2
  %(prog)s --when-full refuse --out results/refused
  %(prog)s --report results/reference/threads

exit status: 0 the prediction holds; 1 it does not, or the run failed; 2 a value cannot be used; 130 interrupted."""

REMOTE = tuple(name for name in transports.NAMES if name != "none")
DEEPEST = 100
"""Most layers of a chain. With one server, that many workers wait for each other."""


@dataclass(frozen=True)
class Chain:
    """`depth` small layers, assigned to the servers in turn; each request has a deadline of `timeout` seconds."""

    transport: Annotated[str, option("what carries the tensors", valid=REMOTE)] = "grpc"
    depth: Annotated[int, option("layers in the chain", ge=1, le=DEEPEST)] = 12
    servers: Annotated[int, option("servers that share them", ge=1, le=DEEPEST)] = 3
    timeout: Annotated[float, option("time limit of a request", gt=0, le=DAY, unit="seconds")] = 2.0
    when_full: Annotated[str, option("what a server does with a call while no worker is free", valid=WHEN_FULL)] = (
        "wait"
    )

    def record(self) -> dict[str, Any]:
        """For environment.json."""
        return {item.name: getattr(self, item.name) for item in fields(Chain)} | {"kind": "threads"}


@dataclass(frozen=True)
class ThreadsOptions(Chain):
    """The options of the demonstration."""

    out: Annotated[str, option("where results go", metavar="FOLDER", shown="they are only printed", min_length=1)] = ""
    report: Annotated[str, option("derive the report of earlier results again", metavar="FOLDER", min_length=1)] = ""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit status: 0 if the prediction holds, 1 if it does not or the run failed, 2 refused, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def _main(words: Sequence[str], prog: str) -> int:
    given = Parser(prog, DESCRIPTION, EPILOG).read(ThreadsOptions, words)
    if given.servers > given.depth:
        raise UsageError(
            f"--servers: {given.servers} for {given.depth} layers; give no more servers than the chain is deep"
        )
    from experiments.threads import observe, report  # not for --help, nor for flags that are refused

    if given.report:
        print(report.build(Path(given.report)))
        return 0
    keras_settings.check()
    return observe.run(given, given.out, words)


if __name__ == "__main__":
    sys.exit(main())
