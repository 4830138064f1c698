"""Compares simulations with measurements: `python -m experiments.simulate.check --out FOLDER`.

A short traced run finds the highest rates that the cells answer, from which the loads are chosen. Then one run
measures, in the same rounds, each cell with one request at a time (traced), with several clients, and under these
loads. A simulation is fitted to the first two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from experiments.cli import exit_status
from experiments.simulate import compared
from experiments.store import environment, files, samples
from partitioning.options import Parser, option
from transports.errors import SplitbenchError
from transports.process import command

PROG = "python -m experiments.simulate.check"
DESCRIPTION = """\
Measure cells alone, with several clients and under loads; simulate the loads from the others; and compare.

Writes the results folders FOLDER/pilot and FOLDER/measured, and check.csv and check.md in FOLDER with the predicted and
the measured percentiles. Needs a quiet machine: the simulation knows of no other program."""

EPILOG = """\
examples:
  %(prog)s --out results/new/simulation
  %(prog)s --out /tmp/quick --requests 60 --transport tcp --servers 2

exit status: 0 compared, whether or not the predictions are close; 1 a run failed; 2 a value cannot be used."""


@dataclass(frozen=True)
class CheckOptions:
    """The options of a check. The runs check the options that have no range here."""

    out: Annotated[str, option("where results go", metavar="FOLDER", min_length=1)]
    transport: Annotated[str, option("as in a run, with commas", min_length=1)] = "tcp,grpc"
    flow: Annotated[str, option("as in a run, with commas", min_length=1)] = "nested,forward"
    servers: Annotated[str, option("as in a run, with commas", min_length=1)] = "2,4"
    model: Annotated[str, option("as in a run", min_length=1)] = "MobileNetV3Large"
    batch: Annotated[int, option("samples in a request", ge=1, le=1024)] = 4
    concurrency: Annotated[tuple[int, ...], option("clients of closed loops", ge=2, le=64, shown="2,3,4")] = (2, 3, 4)
    requests: Annotated[int, option("timed requests in each cell", ge=20, le=10**6)] = 400
    seed: Annotated[int, option("seed of the runs and of the simulation", ge=0, le=2**32 - 1)] = 0


PILOT_RUNS = 30
"""Timed requests in each cell of the short run."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The exit status: 0 compared, 1 a run failed, 2 refused, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def _main(words: Sequence[str], prog: str) -> int:
    options = Parser(prog, DESCRIPTION, EPILOG).read(CheckOptions, words)
    folder = samples.claim(Path(options.out))
    given = {item.name: getattr(options, item.name) for item in fields(options) if item.name != "out"}
    environment.begin(folder, {"kind": compared.KIND, **given}, words)
    with environment.finishing(folder, lambda: None):
        _run(options, compared.PILOT, PILOT_RUNS, [{"trace": "on"}])
        loads = [f"poisson:{rate:g}/s" for rate in compared.rates(folder, options.seed)]
        _run(
            options,
            compared.MEASURED,
            options.requests,
            [{"trace": "on"}, {"concurrency": list(options.concurrency)}, {"load": loads}],
        )
    page = compared.build(folder)
    print(page.read_text(encoding="utf-8"))
    return 0


def _run(options: CheckOptions, name: str, runs: int, matrices: Sequence[Mapping[str, object]]) -> None:
    """Run one experiment as its users do. Raises `SplitbenchError` if it fails."""
    spec = {item: getattr(options, item) for item in ("model", "batch", "seed")}
    spec |= {item: getattr(options, item).split(",") for item in ("transport", "flow", "servers")}
    spec |= {"mode": "submodel", "engine": "frozen", "threads": 1, "runs": runs, "title": f"Simulation check: {name}"}
    lines = [_toml(spec), *(f"[[matrix]]\n{_toml(each)}" for each in matrices)]
    out = Path(options.out)
    path = out / f"{name}.toml"
    files.replace_file(path, "\n".join(lines))
    done = subprocess.run(command("experiments.run", "--spec", str(path), "--out", str(out / name)), check=False)
    if done.returncode:
        raise SplitbenchError(f"the run {name!r} failed: its cause stands above")


def _toml(values: Mapping[str, object]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(main())
