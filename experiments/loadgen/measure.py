"""Runs the scenarios of LoadGen on the cluster of one cell."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.client import Answer
from cluster.machines import Machines
from experiments.execute import begun
from experiments.loadgen import drive, logs, report
from experiments.loadgen.options import ALONE, NO_RESULT, SCENARIOS, LoadgenOptions
from experiments.measure.answered import answered
from experiments.measure.prepare import Prepared
from experiments.measure.progress import Progress
from experiments.measure.runner import CellRunner, cell_runner
from experiments.reports.markdown import number
from experiments.spec.experiment import Experiment
from experiments.spec.schedule import Block, lead
from experiments.spec.settings import to_record
from experiments.store import environment, files, rows, samples
from experiments.store.files import WriteError, replace_file
from partitioning import command_line
from transports.errors import WireError
from transports.process import freeze_garbage

CALLS = 5
"""Requests after the warm-up. The fastest of them gives the latency that LoadGen should expect."""


def run(given: LoadgenOptions, experiment: Experiment, folder: Path, argv: Sequence[str]) -> None:
    """Run the scenarios of `given` and write their results into `folder`; print their table.

    Raises `UsageError`, `PartitionError`, `SplitbenchError` or `OSError`; completed scenarios, and the requests of an
    unfinished one, are kept with a report. Nothing is left running except, perhaps, LoadGen (`drive`).
    """
    record = {"kind": "loadgen", "run": to_record(experiment), "loadgen": given.record()}
    with (
        begun(experiment, folder, argv, record=record) as (prepared, progress, on),
        environment.finishing(folder, lambda: report.build(folder)),
        contextlib.ExitStack() as stack,
    ):
        for partition in prepared.partitions.values():
            replace_file(folder / files.PLAN.format(partition.name), partition.plan.to_json())
        answers = stack.enter_context(samples.Writer(folder))
        writer = stack.enter_context(rows.Writer(folder / files.LOADGEN, logs.COLUMNS))
        _measure(given, prepared, progress, on, answers, writer.append)
        if found := on.record():
            environment.update(folder, machines=found)
    path = report.build(folder)
    console = command_line.console()
    console.print(report.terminal(folder), NO_RESULT, sep="\n", soft_wrap=True)
    print(f"results: {folder} (begin with {path.name})")


def _measure(
    given: LoadgenOptions,
    prepared: Prepared,
    progress: Progress,
    on: Machines,
    answers: samples.Writer,
    keep: Callable[[logs.Outcome], None],
) -> None:
    (cell,) = prepared.experiment.cells
    with cell_runner(prepared, progress, on) as runner:
        progress.phase(f"checking {cell.name}")
        runner.warm_up(cell)
        freeze_garbage()
        with runner.in_turn(cell):
            requests = _Requests(runner, answers, progress)
            fastest = requests.fastest()
            for place, scenario in enumerate(given.scenario):
                settings = _settings(scenario, given, fastest, prepared.experiment.seed)
                outcome = _scenario(scenario, settings, requests, place, answers.path.parent)
                keep(outcome)
                progress.phase(f"{scenario}: LoadGen calls it {outcome.validity}; median {number(outcome.p50_ms)} ms")


def _scenario(scenario: str, settings: Any, requests: _Requests, place: int, folder: Path) -> logs.Outcome:
    """One test of LoadGen. `place`: the number of its block in samples.csv."""
    own, cell = folder / scenario, requests.runner.prepared.experiment.cells[0]
    try:
        own.mkdir()
    except OSError as error:
        raise WriteError(f"cannot make {own}: {error.strerror}") from error
    threads = 1 if scenario == ALONE else cell.concurrency
    requests.lead_in(threads)
    requests.progress.phase(f"{scenario}, for at least {settings.min_duration_ms / 1e3:g} s")
    inputs = len(requests.runner.prepared.inputs[cell.batch])
    drive.run(settings, own, inputs, lambda index: requests.make(index, place), threads)
    return logs.Outcome.of(scenario, own)


@dataclass
class _Requests:
    """The requests of the cell: each is made, checked and kept, in any thread."""

    runner: CellRunner
    samples: samples.Writer
    progress: Progress

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def fastest(self) -> float:
        """The seconds of the fastest of some requests, one at a time."""
        return min(self._infer(number)[0] for number in range(CALLS))

    def lead_in(self, threads: int) -> None:
        """Make uncounted requests, as at the start of a block: they connect to the servers."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._infer, range(lead(threads, self.runner.prepared.experiment.replicas))))

    def make(self, index: int, place: int) -> Callable[[], None]:
        """Make the request with that input; returns a function that checks and keeps the answer."""
        start = time.perf_counter() - self.runner.began
        seconds, answer = self._infer(index)
        return lambda: self._keep(index, place, start, seconds, answer)

    def _infer(self, index: int) -> tuple[float, Answer]:
        experiment = self.runner.prepared.experiment
        try:
            return self.runner.infer(experiment.cells[0], index, experiment.timeout)
        except WireError as error:
            self.runner.fail(experiment.cells[0], error)

    def _keep(self, index: int, place: int, start: float, seconds: float, answer: Answer) -> None:
        (cell,) = self.runner.prepared.experiment.cells
        verdict = self.runner.check(cell, index, answer)
        with self._lock:
            block = Block(place, place, 0, 0, range(0))
            self.samples.append(answered(cell, self.progress.done, block, seconds, start, answer, verdict))
            self.progress.advance(cell.name, seconds)


def _settings(scenario: str, given: LoadgenOptions, fastest: float, seed: int) -> Any:
    """LoadGen's `TestSettings` for a scenario. `fastest`: seconds of the fastest request so far, one at a time."""
    loadgen = drive.library()
    made = loadgen.TestSettings()
    made.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    made.mode = loadgen.TestMode.PerformanceOnly
    values: Mapping[str, float] = {
        "min_duration_ms": round(1e3 * given.min_duration),
        "min_query_count": given.min_queries,
        "single_stream_expected_latency_ns": round(1e9 * fastest),
        "multi_stream_expected_latency_ns": round(1e9 * fastest),
        "multi_stream_samples_per_query": given.samples_per_query,
        "server_target_qps": given.target_qps or 0.5 / fastest,
        "server_target_latency_ns": round(1e6 * given.target_latency),
        "offline_expected_qps": given.target_qps or 2 / fastest,
        **dict.fromkeys(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"), seed),
    }
    for name, value in values.items():
        setattr(made, name, value)
    return made
