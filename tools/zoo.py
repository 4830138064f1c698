"""`python -m tools.zoo [MODEL ...]` runs real models once each and writes their rows of docs/zoo.md.

These are the models of `keras.applications`, and a small model of each family of KerasHub (`tools.families`). Each
model is an experiment of its own, in a process of bounded memory. Without a name, all models run, one after the other;
a row is written as soon as its model has run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cli import exit_status
from experiments.reports.markdown import table
from experiments.store import files
from experiments.store.files import replace_file
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.options import Parser, hint
from partitioning.order import alive
from partitioning.plan import Plan, sent_bytes
from partitioning.strategies import make_plan
from transports.errors import SplitbenchError, UsageError

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
GROUPS = 5
BOUNDS = ("timeout", "--foreground", "1800", "prlimit", f"--data={10 * 2**30}")
"""The command that limits a model's process to so many seconds and so many bytes of private memory."""
RUN = ("--mode", "layer,submodel", "--runs", "1", "--warmup", "0")

Row = list[str]
"""The cells of a row, in the order of the head of its table."""


@dataclass(frozen=True)
class Zoo:
    """A table of the page: the names of its rows, in order, and how a row is measured."""

    mark: str
    """The words before `of tools.zoo` in the comment above its rows."""
    head: tuple[str, ...]
    names: Callable[[], list[str]]
    measured: Callable[[str], Row]

    def rows_of(self, text: str) -> dict[str, Row]:
        """Its rows on a page, by name."""
        found = self._marked.search(text)
        lines = found[0].splitlines() if found else []
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        return {row[0]: row for row in cells[2:]}

    def filled(self, text: str, rows: Iterable[Row]) -> str:
        """The page with these rows in place of its own."""
        lines = table(list(self.head), rows, 1)
        return self._marked.sub(lambda found: "\n".join([found[1], *lines, found[2]]), text)

    @property
    def _marked(self) -> re.Pattern[str]:
        return re.compile(rf"(<!-- {self.mark} of tools.zoo -->\n).*?(\n<!-- end of {self.mark} -->)", re.S)


def application(name: str) -> Row:
    """Run a model of `keras.applications` over the transport `none`. Raises `SplitbenchError`."""
    begun = time.monotonic()
    plan, memory = run(name, name, "--transport", "none", "--servers", str(GROUPS))
    return [name, *counts(plan), *sizes(plan), f"{time.monotonic() - begun:.0f}", f"{memory / 1e9:.1f}"]


def family(name: str) -> Row:
    """Run a model of a KerasHub family over `none` and gRPC, eager and frozen. Raises `SplitbenchError`."""
    from tools.families import FAMILIES

    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "model.keras"
        FAMILIES[name]().save(path)
        plan, _ = run(name, str(path), "--transport", "none,grpc", "--servers", "2", "--engine", "eager,frozen")
    return [name, str(len(plan.inputs)), str(len(plan.outputs)), *counts(plan)]


def run(name: str, model: str, *words: str) -> tuple[Plan, int]:
    """Run a model in a process of its own: (its plan per layer, the most bytes that the process held).

    Raises `SplitbenchError` with the last line that the process wrote, if it fails.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "results"
        command = [*BOUNDS, sys.executable, "-m", "experiments.run", "--model", model, *RUN, *words]
        with (Path(made) / "log").open("w+") as log:
            process = subprocess.Popen([*command, "--out", str(folder)], stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            lines = log.read().splitlines() or [""]
        if process.returncode:
            raise SplitbenchError(f"{name} failed with status {process.returncode}: {lines[-1]}")
        plan = Plan.from_json((folder / files.PLAN.format("layer")).read_text(encoding="utf-8"))
    return plan, used.ru_maxrss * 1024


def counts(plan: Plan) -> list[str]:
    """The number of operations of a plan per layer, and of the places where a single tensor crosses."""
    graph = _graph(plan)
    counted = alive(graph.operations, {name: TensorInfo(name, (), "uint8") for name in plan.edges})
    return [str(len(graph.operations)), str(counted.count(1))]


def sizes(plan: Plan) -> list[str]:
    """The MB that five groups of the operations of a plan per layer send each other.

    The groups have equal numbers of operations, or are those of the cut `narrow` with the same cost for every
    operation, so that they do not depend on the speed of a machine.
    """
    even = dict.fromkeys(plan.by_name, 1.0)
    sent = (sent_bytes(make_plan(_graph(plan), "submodel", cut, GROUPS, even)) for cut in ("equal", "narrow"))
    return [f"{nbytes / 1e6:.2f}" for nbytes in sent]


def _graph(plan: Plan) -> Graph:
    operations = tuple(Operation(stage.name, "", stage.inputs, stage.outputs) for stage in plan.stages)
    return Graph(operations, plan.edges, plan.inputs, plan.outputs)


def _applications() -> list[str]:
    from partitioning.models import application_names  # loads TensorFlow

    return application_names()


def _families() -> list[str]:
    from tools.families import FAMILIES

    return list(FAMILIES)


ZOOS = (
    Zoo(
        "rows",
        ("model", "operations", "cuts", "equal (MB)", "narrow (MB)", "seconds", "memory (GB)"),
        _applications,
        application,
    ),
    Zoo("families", ("family", "inputs", "outputs", "operations", "cuts"), _families, family),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 a model failed, 2 refused, 130 interrupted."""
    return exit_status(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("python -m tools.zoo", "Run real models once each, and write docs/zoo.md.", "")
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a name in keras.applications, or a row of docs/zoo.md (default: all)",
    )
    zoo_of = {name: zoo for zoo in ZOOS for name in zoo.names()}
    names = parser.texts(argv).get("models") or list(zoo_of)
    for name in names:
        if name not in zoo_of:
            raise UsageError(f"no model {name!r} in keras.applications or KerasHub{hint(name, list(zoo_of))}")
    return 1 if sum([not _written(zoo_of[name], name) for name in names]) else 0


def _written(zoo: Zoo, name: str) -> bool:
    """Measure a row and write it to the page; False, with a line on standard error, if the model fails."""
    try:
        row = zoo.measured(name)
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False
    text = PAGE.read_text(encoding="utf-8")
    rows = zoo.rows_of(text) | {name: row}
    replace_file(PAGE, zoo.filled(text, (rows[known] for known in zoo.names() if known in rows)))
    print(*row, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
