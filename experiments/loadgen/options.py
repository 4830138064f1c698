"""The options of `experiments.loadgen` beside the flags of a run, and the combinations that it refuses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cluster import runtimes
from experiments.spec import flags
from experiments.spec.experiment import CELL_FIELDS, SETTINGS, Cell, Experiment, local_of
from experiments.spec.load import IN_FLIGHT
from partitioning.options import Option, option, options_of
from transports.errors import UsageError
from transports.limits import DAY

SCENARIOS: Mapping[str, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
"""Name of a scenario -> LoadGen's own name."""
ALONE = "single-stream"
"""The scenario with one request at a time."""
GROUP = "LoadGen"
NO_RESULT = (
    "This is no MLPerf result, and VALID does not make it one: MLCommons reserves that name for results that it has "
    "reviewed, of its own models and data sets, under its own rules."
)


def _loadgen(help: str, **facts: Any) -> Any:
    return option(help, GROUP, **facts)


@dataclass(frozen=True)
class LoadgenOptions:
    """The settings of LoadGen. Every field is a flag."""

    scenario: Annotated[
        tuple[str, ...],
        _loadgen("scenarios of LoadGen, one after the other on the same cluster", valid=tuple(SCENARIOS), shown=ALONE),
    ] = (ALONE,)
    target_qps: Annotated[
        float,
        _loadgen(
            "server: queries per second; offline: samples per second that LoadGen expects (it sends enough of them for "
            "--min-duration)",
            ge=0.001,
            le=10**6,
            metavar="RATE",
            shown="from the warm-up: half of (server) or twice (offline) the rate of one request at a time",
        ),
    ] = 0.0
    target_latency: Annotated[
        float, _loadgen("server: bound that LoadGen sets for the 99th percentile", gt=0, le=1000 * DAY, metavar="MS")
    ] = 100.0
    samples_per_query: Annotated[int, _loadgen("multi-stream: samples of a query", ge=1, le=10**4)] = 8
    in_flight: Annotated[
        int,
        _loadgen("multi-stream, server, offline: most requests in flight at a time", ge=1, le=IN_FLIGHT),
    ] = 8
    min_duration: Annotated[
        float, _loadgen("least duration of a scenario; official runs take 600", ge=0.001, le=DAY, unit="seconds")
    ] = 10.0
    min_queries: Annotated[int, _loadgen("least queries of a scenario (offline: samples)", ge=1, le=10**9)] = 100

    def record(self) -> dict[str, Any]:
        """For environment.json."""
        return asdict(self) | {"scenario": list(self.scenario)}


OPTIONS: Mapping[str, Option] = options_of(LoadgenOptions)
CONCERNS: Mapping[str, Collection[str]] = {
    "target_qps": ("server", "offline"),
    "target_latency": ("server",),
    "samples_per_query": ("multi-stream",),
    "in_flight": ("multi-stream", "server", "offline"),
}
"""Option -> the scenarios that it affects; options that are not listed affect all scenarios."""
DECIDES = "LoadGen decides when requests begin, and how many (--target-qps, --min-duration, --min-queries)"
NOTHING = "under LoadGen one cell is loaded, and nothing is compared, traced or killed"
MEANINGLESS: Mapping[str, str] = {
    **dict.fromkeys(("load", "concurrency", "runs", "until_stable", "limit", "order"), DECIDES),
    **dict.fromkeys(("label", "trace", "beside", "kill"), NOTHING),
}
"""Flag of a run that has no meaning here -> why."""


def read(argv: Sequence[str], prog: str, texts_of: tuple[str, str]) -> tuple[LoadgenOptions, Experiment, Path]:
    """The settings of LoadGen, the experiment with its one cell, and the folder for the results. Nothing is created.

    The cell's `concurrency` is the number of requests that may be in flight. Raises `UsageError` or `PartitionError`
    for a value that cannot be used. `texts_of`: description and epilog of `--help`.
    """
    parser = flags.parser(prog, *texts_of)
    parser.add_options(OPTIONS.values())
    texts = parser.texts(argv)
    given = _own({name: texts.pop(name) for name in OPTIONS if name in texts})
    for name, why in MEANINGLESS.items():
        if name in texts:
            raise UsageError(f"{flags.FLAGS[name].flag}: {why}; leave it out")
    (experiment, folder), *others = flags.runs_of(texts).experiments
    if others:
        raise UsageError("--spec: loadgen takes one file")
    return given, _experiment(experiment, given), folder


def _own(texts: Mapping[str, str]) -> LoadgenOptions:
    values = {name: OPTIONS[name].values(text, OPTIONS[name].flag) for name, text in texts.items()}
    chosen: dict[str, Any] = {name: found if OPTIONS[name].several else found[0] for name, found in values.items()}
    given = LoadgenOptions(**chosen)
    for name in texts:
        scenarios = CONCERNS.get(name, given.scenario)
        if not {*scenarios} & {*given.scenario}:
            raise UsageError(f"{OPTIONS[name].flag}: valid with --scenario {' or '.join(scenarios)}")
    return given


def _experiment(experiment: Experiment, given: LoadgenOptions) -> Experiment:
    cell, *others = experiment.cells
    if others:
        raise UsageError(
            f"LoadGen loads one cell, and these are {len(experiment.cells)}: give one value for each setting "
            f"({_differing(experiment.cells)})"
        )
    for name in ("load", "concurrency", "label", "trace", "kill"):
        if getattr(cell if name in CELL_FIELDS else experiment, name) != SETTINGS[name].default:
            raise UsageError(f"--spec: {name}: {MEANINGLESS[name]}; leave it out")
    if experiment.pin == "on" and cell.transport == "none":
        raise UsageError("--pin on: it pins nodes, and the transport none has none; leave out one of the two")
    more = [name for name in given.scenario if name != ALONE]
    if more and _one_at_a_time(cell):
        raise UsageError(
            f"--scenario {','.join(more)}: {_what(cell)} takes one request at a time; valid: --scenario {ALONE}"
        )
    return replace(experiment, cells=(replace(cell, concurrency=given.in_flight if more else 1),))


def _differing(cells: Sequence[Cell]) -> str:
    values = {name: dict.fromkeys(str(getattr(cell, name)) for cell in cells) for name in CELL_FIELDS}
    return "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1)


def _one_at_a_time(cell: Cell) -> bool:
    if runtimes.is_runtime(cell.transport):
        return not runtimes.kind(cell.transport).overlaps
    return cell == local_of(cell)


def _what(cell: Cell) -> str:
    return "the local model" if cell == local_of(cell) else f"--transport {cell.transport}"
