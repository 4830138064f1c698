"""`python -m experiments.profile`: measures a model's costs on hosts and over transports, for `splitbench advise`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import transports
from cluster import runtimes
from experiments.cli import exit_status
from experiments.spec import flags
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import Runs
from experiments.spec.settings import to_record
from partitioning.engine_table import is_remote
from partitioning.errors import PartitionError
from partitioning.options import Option, option, options_of
from partitioning.strategy_table import CUTS
from transports.errors import UsageError

PROG = "python -m experiments.profile"
DESCRIPTION = """\
Measure what a model costs on each host and over each transport, for `splitbench advise` and `--cut advised`.

On each host, one after the other, a process with the whole model times each operation by itself and, for each of a few
positions, everything before it and everything from it on, under the engine and the batch of a run. Between two
processes of this machine each transport carries what crosses the cut at each position. The folder has CSV files that
other programs can read; their columns are in the documentation. Links need no profile: they are given to the advice.

The flags are those of a run, with one engine and one batch; hosts are those of --hosts or --spec, and the cuts that are
named (--mode submodel --cut NAME) are measured, too."""

EPILOG = """\
examples:
  %(prog)s --engine frozen --transport tcp,grpc --out results/profile
  %(prog)s --model ResNet50 --engine frozen --threads 1 --positions 24 --out results/profile-resnet50
  %(prog)s --spec experiments/specs/edge-cloud.toml --out results/profile-edge-cloud   # its hosts and transports
  splitbench advise --profile results/profile --link 'edge<->cloud rtt:20ms,bandwidth:50Mbit'

exit status: 0 done; 1 it failed; 2 a value cannot be used; 130 interrupted."""


@dataclass(frozen=True)
class ProfileOptions:
    """The options of a profile beside the flags of a run."""

    positions: Annotated[
        int, option("positions at which a cut is measured, spread over the model", "profile", ge=1, le=1000)
    ] = 16
    rounds: Annotated[int, option("timed calls of each run of operations, and of each message", "profile", ge=5)] = 20


OPTIONS: Mapping[str, Option] = options_of(ProfileOptions)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Make a profile. Exit status: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def parse(argv: Sequence[str], prog: str) -> tuple[ProfileOptions, Experiment, Path]:
    """The options, the experiment, and the folder. The experiment's cells are the whole model over each transport, and
    each named cut.

    Raises `UsageError`. Nothing is created.
    """
    parser = flags.parser(prog, DESCRIPTION, EPILOG)
    parser.add_options(OPTIONS.values())
    try:
        texts = parser.texts(argv)
        own = {name: OPTIONS[name].values(texts.pop(name), OPTIONS[name].flag)[0] for name in OPTIONS if name in texts}
    except PartitionError as error:
        raise UsageError(str(error)) from error
    # Each host is profiled by itself, however many servers share the model in a run.
    (experiment, folder), *others = flags.runs_of({"servers": "1", **texts}).experiments
    if others:
        raise UsageError("--spec: a profile takes one file")
    return ProfileOptions(**own), _asked(experiment), folder


def _asked(experiment: Experiment) -> Experiment:
    """The experiment with a cell for each transport and each named cut.

    Raises `UsageError` for settings that a profile cannot have.
    """
    kinds = {(cell.engine, cell.batch) for cell in experiment.cells}
    if len(kinds) > 1:
        raise UsageError(f"a profile is of one engine and one batch, and these are {len(kinds)}; give one of each")
    ((engine, batch),) = kinds
    wrong = {
        f"--engine {engine}: model servers execute its stages": is_remote(engine),
        "--device gpu": experiment.device != "cpu",
        "--kill": bool(experiment.kill),
        "--pin on: give the hosts `cores`": experiment.pin == "on",
    }
    for what, given in wrong.items():
        if given:
            raise UsageError(f"a profile cannot have {what}; leave it out")
    names = dict.fromkeys(cell.transport for cell in experiment.cells)
    carried = [
        name for name in names if not runtimes.is_runtime(name) and transports.kind(name).addressing != "in-process"
    ]
    if not carried:
        raise UsageError(f"a profile needs a transport between processes, and these are {', '.join(names)}; add grpc")
    one = Cell(engine=engine, batch=batch, servers=1)
    cuts = dict.fromkeys(cell.cut for cell in experiment.cells if cell.mode == "submodel" and cell.cut not in CUTS)
    wholes = [replace(one, transport=name, mode="whole") for name in carried]
    named = [replace(one, transport="none", mode="submodel", cut=cut) for cut in cuts]
    return replace(experiment, cells=(*wholes, *named))


def record(options: ProfileOptions, experiment: Experiment) -> dict[str, object]:
    """The record of the experiment in environment.json."""
    return to_record(experiment) | {"kind": "profile", "positions": options.positions}


def _main(words: Sequence[str], prog: str) -> int:
    options, experiment, folder = parse(words, prog)
    from experiments.execute import check  # not for --help, nor for flags that are refused
    from experiments.profile import measure, report

    check(Runs(((experiment, folder),), (), ()))
    measure.run(options, experiment, folder, words)
    report.build(folder)
    report.show(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
