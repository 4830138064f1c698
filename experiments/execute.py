"""One experiment from start to end: prepare, measure, report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import RenderableType

from cluster import identity, machines, scratch
from cluster.device import cards
from cluster.idle import idling
from cluster.machines import Machines
from cluster.process import tune
from cluster.runtimes import is_runtime
from experiments.measure import memory
from experiments.measure.progress import Progress
from experiments.reports import engine_titles as engines
from experiments.reports import link_map, report
from experiments.reports.labels import Settings
from experiments.reports.terminal import render_ranking, render_table
from experiments.spec import machines as spec
from experiments.spec import sweep
from experiments.spec.experiment import Experiment
from experiments.spec.flags import Runs
from experiments.spec.settings import from_record, to_record
from experiments.store import environment, files, samples
from experiments.store.files import replace_file
from partitioning import command_line, keras_settings
from partitioning.engine_table import is_remote
from partitioning.inputs.variants import check_input
from transports.errors import UsageError
from transports.limits import TLS_FILES

if TYPE_CHECKING:
    from experiments.measure.prepare import Prepared
    from experiments.measure.runner import CellRunner

    EachRound = Callable[[Prepared, Path], AbstractContextManager[Callable[[int, CellRunner], None]]]


def execute(experiment: Experiment, folder: Path, argv: Sequence[str], each_round: EachRound | None = None) -> None:
    """Run `experiment`, time all of its cells, and write the results into `folder`.

    `argv` is recorded. `each_round` is entered for the run; the function that it yields is called before the first
    request of each round, with the round's number and the object that makes the requests. Raises `UsageError`,
    `PartitionError`, `SplitbenchError` or `OSError`; samples measured until then are kept.
    """
    with begun(experiment, folder, argv, experiment.runs * len(experiment.cells)) as (prepared, progress, on):
        _measure(prepared, folder, progress, on, each_round)
    report.build(folder)


@contextlib.contextmanager
def begun(
    experiment: Experiment,
    folder: Path,
    argv: Sequence[str],
    total: int = 0,
    record: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Prepared, Progress, Machines]]:
    """Load the model, reserve the machines and claim `folder`; yield (prepared experiment, progress, machines).

    `total`: the number of timed requests; 0: unknown. `record`: written to environment.json in place of the experiment.
    On exit no process is left running. Raises what `execute` raises.
    """
    scratch.home()
    names = [cell.name for cell in experiment.cells]
    with contextlib.ExitStack() as stack:
        stack.enter_context(idling(experiment.idle))
        progress = stack.enter_context(Progress(total, names))
        progress.phase("loading TensorFlow and the model")
        experiment.hardware.share(0).restrict()
        remote = any(cell.transport != "none" or is_remote(cell.engine) for cell in experiment.cells)
        on = stack.enter_context(machines.started(_asked(experiment), remote, progress.phase))
        settings = tune(experiment.threads, experiment.malloc)
        from experiments.measure.prepare import prepare  # loads TensorFlow, so only after the launcher has forked

        prepared = prepare(experiment)
        samples.claim(folder, experiment.title)
        environment.begin(folder, record or experiment, argv, settings)
        if prepared.warning:
            progress.phase(f"warning: {prepared.warning}")
            environment.update(folder, warning=prepared.warning)
        found = cards() if experiment.device == "gpu" else {}
        environment.update(folder, gate=prepared.tolerance.record(), cards=found)
        if served := prepared.model_servers.record():
            environment.update(folder, model_server=served)
        yield prepared, progress, on


def _asked(experiment: Experiment) -> machines.Settings:
    """The settings with which an experiment's machines are started."""
    files = [getattr(experiment, name) for name in TLS_FILES]
    names = {cell.transport for cell in experiment.cells if not is_runtime(cell.transport)} - {"none"}
    return machines.Settings(
        cluster=experiment.cluster,
        hosts=spec.hosts_of(experiment),
        ssh=experiment.ssh,
        versions=experiment.versions,
        transports=tuple(sorted(names)),
        address=experiment.host,
        identity=identity.given(files) if experiment.several_machines and all(files) else None,
        insecure=experiment.insecure == "on",
        ports=spec.ports(experiment, len(names)),
    )


def _measure(prepared: Prepared, folder: Path, progress: Progress, on: Machines, each_round: EachRound | None) -> None:
    """Measure every cell. If that fails, report the samples measured until then, and the reason."""
    from experiments.measure.calibration import calibrate
    from experiments.measure.runner import run
    from experiments.measure.writers import Writers

    def salvage() -> None:
        if samples.read(folder).size:
            report.build(folder)

    with environment.finishing(folder, salvage), contextlib.ExitStack() as stack:
        for partition in dict.fromkeys(prepared.partitions.values()):
            replace_file(folder / files.PLAN.format(partition.name), partition.plan.to_json())
        killed = bool(prepared.experiment.kill)
        ask = bool(prepared.chosen(remote=True)) and not killed
        traced = any(cell.trace == "on" for cell in prepared.experiment.cells)
        writers = Writers.into(folder, stack, kill=killed, ask=ask, trace=traced)
        more = {"each_round": stack.enter_context(each_round(prepared, folder))} if each_round else {}
        if found := on.record():
            environment.update(folder, machines=found)
        if sweep.asked(prepared.experiment):
            prepared, capacities = calibrate(prepared, progress, on)
            environment.update(folder, experiment=to_record(prepared.experiment), calibration=capacities)
        run(prepared, writers, progress, on, **more)
        if warning := on.measure_again():
            progress.phase(f"warning: {warning}")
            environment.update(folder, links_warning=warning)
        if on.ways:
            environment.update(folder, machines=on.record())


def check(runs: Runs) -> None:
    """Raise `UsageError` or `PartitionError` now for faults that would otherwise end a run only after its model was
    loaded."""
    keras_settings.check()
    memory.check_start()
    _check_shown(runs.beside)
    for experiment, folder in runs.experiments:
        samples.refuse_taken(folder, experiment.title)
        check_input(experiment)


def _check_shown(folders: Iterable[Path]) -> None:
    """Raise `UsageError` for a folder that `show` cannot show."""
    for folder in folders:
        try:
            from_record(environment.read(folder)["experiment"])
        except UsageError as error:
            raise UsageError(f"--beside {folder}: {error}") from error
        if not (folder / files.SUMMARY).is_file():
            raise UsageError(f"--beside {folder}: no {files.SUMMARY}; derive it with: splitbench report {folder}")


def _table(folder: Path, record: Mapping[str, Any]) -> RenderableType:
    """The table of a results folder: a row for each cell or, with several links, for each link."""
    experiment, titles = from_record(record["experiment"]), engines.titles_of(record)
    if found := link_map.LinkMap.of(experiment, samples.read(folder)):
        return render_ranking(link_map.HEADER, link_map.ranking(found, Settings(found.rows, titles), experiment.seed))
    return render_table(pd.read_csv(folder / files.SUMMARY), titles)


def show(folders: Iterable[Path]) -> None:
    """Print the table of each results folder, then where their reports are."""
    console, records = command_line.console(), {folder: environment.read(folder) for folder in folders}
    for folder, record in records.items():
        if not record["experiment"]["kill"]:  # a run with a kill compares no cells
            if len(records) > 1:
                console.print(record["experiment"]["title"] or folder.name, style="bold")
            console.print(_table(folder, record), "", sep="\n")
    for folder in records:
        console.print(f"results: {folder} (begin with {files.REPORT_HTML})", soft_wrap=True)
