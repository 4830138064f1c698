"""`python -m experiments.ladder`: times the steps from a local model to a request over a transport."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from cluster import runtimes
from experiments.cli import exit_status
from experiments.spec import flags
from experiments.spec.experiment import Experiment
from transports.errors import UsageError

PROG = "python -m experiments.ladder"
DESCRIPTION = """\
Measure the steps from a local model to a request over a transport, in the rounds of one experiment.

Beside each cell the run measures: the local model; the stages in a row in one process; the same plan over the
transport none; the stages in processes of their own behind plain sockets; the request with stages that compute
nothing, over the transport, over none and over plain sockets; and, for the bytes of the request's messages and
answers, plain TCP sockets, the transport's library alone, and the transport in an echo without nodes. The report has
a table and a picture of the steps, and the part of a request's time that they do not explain.

The flags are those of a run. Not valid here: --kill, --order blocked, several requests in flight, --load, model
servers, runtimes."""

EPILOG = """\
examples:
  %(prog)s --mode submodel --engine frozen --transport grpc,rpyc-tuned
  %(prog)s --mode submodel --engine frozen --transport grpc --cut narrow --threads 1 --runs 100

exit status: 0 done; 1 the run failed, and what was measured is kept; 2 a value cannot be used; 130 interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Measure one ladder. Exit status: 0 done, 1 failed, 2 refused before the start, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def complete(experiment: Experiment) -> Experiment:
    """`experiment` with every cell that a ladder needs. Raises `UsageError` if it cannot have a ladder."""
    from experiments.store.statistics import chain_of, none_of
    from partitioning.engine_table import is_remote

    names = {cell.transport for cell in experiment.cells}
    wrong = {
        "--kill": bool(experiment.kill),
        "--order blocked": experiment.turns == "blocked",
        "--cluster ssh or ray, since its steps are measured here": experiment.several_machines,
        "--link": any(cell.link for cell in experiment.cells),
        "--concurrency above 1": any(cell.concurrency > 1 for cell in experiment.cells),
        "--load": any(cell.load for cell in experiment.cells),
        "an engine that calls model servers": any(is_remote(cell.engine) for cell in experiment.cells),
        "a runtime, which sends no messages to nodes": any(map(runtimes.is_runtime, names)),
        "--mode whole, which has no steps": any(
            cell.mode == "whole" and cell.transport != "none" for cell in experiment.cells
        ),
        "the transport none alone": names == {"none"},
    }
    for what, given in wrong.items():
        if given:
            raise UsageError(f"a ladder cannot have {what}; valid: one request at a time over a transport, in rounds")
    beside = [make(cell) for make in (none_of, chain_of) for cell in experiment.cells]
    return replace(experiment, cells=tuple(dict.fromkeys([*beside, *experiment.cells]))).with_locals()


def _main(words: Sequence[str], prog: str) -> int:
    runs = flags.parse_runs(words, prog, (DESCRIPTION, EPILOG))
    (experiment, folder), *others = runs.experiments
    if others:
        raise UsageError("--spec: a ladder takes one file")
    whole = complete(experiment)
    from experiments.execute import check, execute, show  # not for --help, nor for flags that are refused
    from experiments.ladder.rungs import measured

    check(runs)
    execute(whole, folder, words, measured)
    show([*runs.beside, folder])
    return 0


if __name__ == "__main__":
    sys.exit(main())
