"""`python -m tools.zoo [MODEL ...]` runs models of `keras.applications` once and writes their rows of docs/zoo.md.

Each model is an experiment of its own: `splitbench run` over the transport `none`, per layer and per submodel, in a
process of bounded memory. Without a name, all models run, one after the other; a row is written as soon as it is known.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
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
MARKED = re.compile(r"(<!-- rows of tools.zoo -->\n).*?(\n<!-- end of rows -->)", re.S)
HEAD = ("model", "operations", "cuts", "equal (MB)", "narrow (MB)", "seconds", "memory (GB)")
GROUPS = 5
BOUNDS = ("timeout", "--foreground", "1800", "prlimit", f"--data={10 * 2**30}")
"""What a model's process may take: seconds, and bytes of private memory."""
RUN = ("--transport", "none", "--mode", "layer,submodel", "--servers", str(GROUPS), "--runs", "1", "--warmup", "0")

Row = list[str]
"""The cells of a row, in the order of `HEAD`."""


def measured(name: str) -> Row:
    """Run the model in a process of its own. Raises `SplitbenchError` with the last line that it wrote, if it fails."""
    with tempfile.TemporaryDirectory() as made:
        folder, begun = Path(made) / "results", time.monotonic()
        command = [*BOUNDS, sys.executable, "-m", "experiments.run", "--model", name, *RUN, "--out", str(folder)]
        with (Path(made) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            lines = log.read().splitlines() or [""]
        if process.returncode:
            raise SplitbenchError(f"{name} failed with status {process.returncode}: {lines[-1]}")
        plan = Plan.from_json((folder / files.PLAN.format("layer")).read_text(encoding="utf-8"))
    return [name, *figures(plan), f"{time.monotonic() - begun:.0f}", f"{used.ru_maxrss * 1024 / 1e9:.1f}"]


def figures(plan: Plan) -> list[str]:
    """Of a plan per layer: its operations, the places where one tensor crosses, and the MB between five groups.

    These groups are equal in number of operations, or narrow with every operation at the same cost, so that they do not
    depend on the speed of a machine.
    """
    operations = tuple(Operation(stage.name, "", stage.inputs, stage.outputs) for stage in plan.stages)
    graph = Graph(operations, plan.edges, plan.inputs, plan.outputs)
    counted = alive(operations, {name: TensorInfo(name, (), "uint8") for name in plan.edges})
    even = dict.fromkeys(plan.by_name, 1.0)
    sent = (sent_bytes(make_plan(graph, "submodel", cut, GROUPS, even)) for cut in ("equal", "narrow"))
    return [str(len(operations)), str(counted.count(1)), *(f"{nbytes / 1e6:.2f}" for nbytes in sent)]


def rows_of(text: str) -> dict[str, Row]:
    """The rows on a page, by model."""
    found = MARKED.search(text)
    lines = found[0].splitlines() if found else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row for row in cells[2:]}


def filled(text: str, rows: Iterable[Row]) -> str:
    """The page with these rows in place of its own."""
    lines = table(list(HEAD), rows, 1)
    return MARKED.sub(lambda found: "\n".join([found[1], *lines, found[2]]), text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 a model failed, 2 refused, 130 interrupted."""
    return exit_status(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("python -m tools.zoo", "Run models of keras.applications once, and write docs/zoo.md.", "")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a name in keras.applications (default: all)")
    from partitioning.models import application_names  # loads TensorFlow

    known = application_names()
    names = parser.texts(argv).get("models") or known
    for name in names:
        if name not in known:
            raise UsageError(f"no model {name!r} in keras.applications{hint(name, known)}")
    failed = 0
    for name in names:
        try:
            row = measured(name)
        except SplitbenchError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr, flush=True)
            continue
        text = PAGE.read_text(encoding="utf-8")
        rows = rows_of(text) | {name: row}
        replace_file(PAGE, filled(text, (rows[known_name] for known_name in known if known_name in rows)))
        print(*row, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
