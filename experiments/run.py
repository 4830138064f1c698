"""The command line: `python -m experiments.run --transport grpc --mode layer` (`--help` teaches the rest)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from cluster.launch import LocalLauncher
from cluster.process import tune
from experiments.measure import model_servers
from experiments.measure.inputs import check_image
from experiments.measure.progress import Progress
from experiments.reports import engine_titles as engines
from experiments.reports import report
from experiments.spec import flags
from experiments.spec.experiment import Experiment
from experiments.store import environment, faults, files, samples
from experiments.store.files import replace_file
from transports.errors import SplitbenchError, UsageError

if TYPE_CHECKING:
    from experiments.measure.prepare import Prepared


def main(argv: Sequence[str] | None = None) -> int:
    """Run one experiment; the exit status: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        experiment, folder = flags.parse(words)
        return _run(experiment.with_locals(), folder, words)
    except UsageError as error:
        return _fail(error, 2)
    except (SplitbenchError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _run(experiment: Experiment, folder: Path, argv: Sequence[str]) -> int:
    samples.refuse_taken(folder, experiment.title)
    check_image(experiment.input)
    from experiments.measure.prepare import prepare  # not for what is refused until here: it takes its time

    names = [cell.name for cell in experiment.cells]
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(experiment.runs * len(names), names))
        progress.phase("loading TensorFlow and the model")
        remote = any(cell.transport != "none" for cell in experiment.cells) or model_servers.born(experiment)
        launcher = stack.enter_context(LocalLauncher()) if remote else None
        settings = tune(experiment.threads, experiment.malloc)
        prepared = prepare(experiment)
        samples.claim(folder, experiment.title)
        environment.begin(folder, experiment, argv, settings)
        if served := model_servers.record(experiment):
            environment.update(folder, model_server=served)
        _measure(prepared, folder, progress, launcher)
    _show(folder)
    return 0


def _measure(prepared: Prepared, folder: Path, progress: Progress, launcher: LocalLauncher | None) -> None:
    """Run, and leave behind a report of whatever was measured, with the reason where that is not all."""
    from experiments.measure.runner import run

    def salvage() -> None:
        if samples.read(folder).size:
            report.build(folder)

    with environment.finishing(folder, salvage), contextlib.ExitStack() as stack:
        for partition in dict.fromkeys(prepared.partitions.values()):
            replace_file(folder / files.PLAN.format(partition.name), partition.plan.to_json())
        writer = stack.enter_context(samples.Writer(folder))
        log = stack.enter_context(faults.writer(folder)) if prepared.experiment.kill else None
        run(prepared, writer, progress, launcher, log)


def _show(folder: Path) -> None:
    written = report.build(folder)
    console = Console()
    record = environment.read(folder)
    if not record["experiment"]["kill"]:  # after a kill there is nothing to compare
        summary = pd.read_csv(folder / files.SUMMARY)
        console.print(report.render_table(summary, engines.titles_of(record)))
    console.print(f"results: {folder} (begin with {written.name})", soft_wrap=True)


def _fail(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
