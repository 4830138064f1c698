"""`splitbench simulate RUN`: predicts, from a measured cell, requests with other hosts, replicas and clients."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.flow_table import FLOW_NAMES
from experiments.cli import exit_status
from experiments.simulate.options import (
    EACH,
    OF_PROFILE,
    PROG,
    RUN,
    SimulateOptions,
    check_hosts,
    link_of,
    loads_of,
    read,
)
from experiments.store import files
from partitioning.options import hint
from transports.errors import UsageError

if TYPE_CHECKING:
    from experiments.simulate.engine import Clients
    from experiments.simulate.fit import Fit
    from experiments.simulate.measured import Run
    from experiments.simulate.study import Point, Study


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit status: 0 simulated, 1 a file cannot be written, 2 refused, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def _main(words: Sequence[str], prog: str) -> int:
    folder, options = read(words, prog)
    loads, link = loads_of(options), link_of(options.link)
    check_hosts(options.hosts)
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give the results folder of a run")
    _check_installed()
    from experiments.simulate.measured import check_machines  # pandas and simpy take their time: not for --help
    from experiments.simulate.study import Study
    from experiments.simulate.topology import Layout
    from experiments.store import samples

    if options.out:
        samples.refuse_taken(Path(options.out))
    run, fitted = _from_profile(folder, options) if _is_profile(folder) else _from_run(folder, options)
    check_machines(run, dealt=options.hosts != RUN, linked=link is not None)
    layout = Layout(hosts=options.hosts, cores=options.cores, link=link, timeout=options.timeout)
    study = Study(run, fitted, layout, options.requests, options.seed)
    bound = math.nan if not options.load else options.p99 or study.bound()
    return _simulate(study, loads, options, bound, words)


def _simulate(
    study: Study, loads: Sequence[Clients], options: SimulateOptions, bound: float, words: Sequence[str]
) -> int:
    """Simulate and print; with `--out`, also write the results."""
    import pandas as pd

    from experiments.reports.terminal import wrapped
    from experiments.simulate import report
    from partitioning.command_line import console

    what, screen = described(study, options), console()
    screen.print(*wrapped(what, screen.width), sep="\n")
    points = study.points(loads, options.replicas)
    if options.out:
        found, page = _kept(points, Path(options.out), _record(study, options), what, bound, words)
    else:
        found, page = [point.row() for point in points], None
    screen.print(report.printed(found))
    screen.print(*wrapped(report.needs(pd.DataFrame(found), bound), screen.width), sep="\n")
    if page:
        screen.print(f"results: {page}", soft_wrap=True)
    return 0


def _kept(
    points: Iterable[Point],
    folder: Path,
    record: Mapping[str, Any],
    what: list[str],
    bound: float,
    words: Sequence[str],
) -> tuple[list[Mapping[str, Any]], Path]:
    """The rows of `points`. Writes each row as soon as it is simulated, and the page at the end."""
    from experiments.simulate import report
    from experiments.store import environment, samples

    out, found = samples.claim(folder), []
    environment.begin(out, record, words)
    environment.update(out, what=what, bound=None if math.isnan(bound) else bound)
    with environment.finishing(out, lambda: report.build(out)), report.writer(out) as writer:
        for point in points:
            writer.append(point)
            found.append(point.row())
    return found, report.build(out)


def _record(study: Study, options: SimulateOptions) -> Mapping[str, Any]:
    given = {name: value for name, value in asdict(options).items() if name != "out"}
    return {"kind": "simulate", **given, "run": study.run.folder.name, "cell": study.run.cell.name}


def _is_profile(folder: Path) -> bool:
    return (folder / files.PROFILE).is_file()


def _from_run(folder: Path, options: SimulateOptions) -> tuple[Run, Fit]:
    """Raises `UsageError`."""
    from experiments.simulate.calibrate import fitted
    from experiments.simulate.measured import Results

    if given := [name for name in OF_PROFILE if getattr(options, name)]:
        raise UsageError(f"--{given[0]}: a run has its own; choose the cell with --cell, or give a profile's folder")
    results = Results.read(folder)
    run = results.run(results.chosen(options.cell))
    return run, fitted(run)


def _from_profile(folder: Path, options: SimulateOptions) -> tuple[Run, Fit]:
    """Raises `UsageError`."""
    from experiments.simulate import profiled
    from experiments.store import profile

    found = profile.read(folder)
    if options.cell:
        raise UsageError("--cell: a profile has no cells; give --transport, --cut and --flow")
    flow, transport = options.flow or FLOW_NAMES[0], options.transport or found.transports[0]
    if flow not in FLOW_NAMES:
        raise UsageError(f"--flow {flow!r}: no flow{hint(flow, FLOW_NAMES)}")
    run = profiled.run_of(found, profiled.Asked(transport, options.cut, flow))
    return run, profiled.fit_of(found, run)


def described(study: Study, options: SimulateOptions) -> list[str]:
    """Sentences that describe what was simulated."""
    run = study.run
    count = options.cores or run.cores
    cores = f"{count} core{'s' if count > 1 else ''}"
    where = {
        RUN: f"Client and servers share the hosts that were measured, with {cores} each.",
        EACH: f"A host of {cores} for every server and replica, and one for the client.",
    }
    hosts = f"Up to {options.hosts} hosts of {cores} for the servers and replicas in turn, and one for the client."
    between = f" Between every two hosts: {options.link}." if options.link else ""
    return [
        f"Simulated, not measured. {study.fitted.basis}",
        where.get(options.hosts, hosts) + between,
        f"{options.requests} requests for each row; the first tenth does not count. Seed {options.seed}.",
    ]


def _check_installed() -> None:
    try:
        import simpy  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("a simulation needs simpy; install it: pip install 'splitbench[simulation]'") from error


if __name__ == "__main__":
    sys.exit(main())
