"""`python -m experiments.run --transport grpc --mode layer`: time a model, split and carried in different ways."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from experiments.cli import exit_status
from experiments.spec import flags
from experiments.spec.experiment import Experiment
from partitioning.strategy_table import ADVISED
from transports.process import command


def main(argv: Sequence[str] | None = None, prog: str = flags.PROG) -> int:
    """Run the experiments that `argv` describes, one after the other, and return the exit status.

    0 done, 1 failed (measured samples are kept), 2 refused, 130 interrupted. Unusable values in any of the --spec files
    are refused before anything is started.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    variables = dict(os.environ)
    return exit_status(lambda: _run(words, prog, variables))


def _run(words: Sequence[str], prog: str, variables: Mapping[str, str]) -> int:
    runs = flags.parse_runs(words, prog)
    # Not for --help, nor for flags that are refused: these imports take a second.
    from experiments.execute import check, execute, show

    check(runs)
    (experiment, folder), *_ = [(_advised(experiment), folder) for experiment, folder in runs.experiments]
    execute(experiment.with_locals(), folder, words)
    show([*runs.beside, folder])
    if runs.rest:
        # The next experiment runs in a new program with this one's variables, so that threads, allocator and garbage
        # of this experiment do not affect it.
        sys.stdout.flush()
        os.execve(sys.executable, command("experiments.run", *runs.rest), variables)
    return 0


def _advised(experiment: Experiment) -> Experiment:
    """The experiment with named operations in place of `--cut advised`."""
    if all(cell.cut != ADVISED for cell in experiment.cells):
        return experiment
    from experiments.advise.cut import resolved

    return resolved(experiment)


if __name__ == "__main__":
    sys.exit(main())
