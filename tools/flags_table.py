"""`python -m tools.flags_table` writes docs/flags.md from the declarations of the flags. `--check` compares."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path

from experiments.advise.__main__ import AdviseOptions
from experiments.cli import exit_status
from experiments.compare.__main__ import CompareOptions
from experiments.loadgen.options import OPTIONS as LOADGEN
from experiments.profile.__main__ import OPTIONS as PROFILE
from experiments.simulate.options import SimulateOptions
from experiments.sizes.__main__ import SizesOptions
from experiments.spec.experiment import CELL_FIELDS
from experiments.spec.flags import FLAGS
from experiments.threads.__main__ import ThreadsOptions
from experiments.trace.__main__ import TraceOptions
from partitioning.export import ExportOptions
from partitioning.options import Option, Parser, options_of
from partitioning.planned import PlanOptions

PAGE = Path(__file__).parents[1] / "docs" / "flags.md"
COMMANDS: Mapping[str, Mapping[str, Option]] = {
    "run": FLAGS,
    "show": options_of(PlanOptions),
    "export": options_of(ExportOptions),
    "compare": options_of(CompareOptions),
    "profile": PROFILE,
    "advise": options_of(AdviseOptions),
    "loadgen": LOADGEN,
    "simulate": options_of(SimulateOptions),
    "sizes": options_of(SizesOptions),
    "threads": options_of(ThreadsOptions),
    "trace": options_of(TraceOptions),
}
"""Command -> its flags. `splitbench ladder` has the flags of a run, and so has `splitbench loadgen` (listed here: its
additional ones); `splitbench report` takes a folder and no flag."""

INTRODUCTION = """\
# Flags

`python -m tools.flags_table` writes this page from the declarations of the flags; `splitbench COMMAND --help` shows the
same. A flag may be given once, unless it says that it may be repeated.
"""
RUN = """\
A comma in a flag marked `*` makes a matrix ([Running experiments](running.md#describing-an-experiment)). Every flag but
`--spec`, `--out` and `--beside` is also a key of a `--spec` file. The column *changes* names what a flag affects: the
client, the nodes, the registry, the transports, the model servers or the report.
"""


def page() -> str:
    """The text of docs/flags.md."""
    parts = [INTRODUCTION]
    for command, options in COMMANDS.items():
        head = ["flag", "default", "valid", "what", *(["changes"] if command == "run" else [])]
        body = [_row(item, command == "run" and item.name in CELL_FIELDS)[: len(head)] for item in options.values()]
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
        parts += [f"## splitbench {command}\n", *([RUN] if command == "run" else []), *lines, ""]
    return "\n".join(parts)


def _row(item: Option, axis: bool) -> list[str]:
    flag = f"`{' '.join(filter(None, (item.flag, item.metavar)))}`{' *' if axis else ''}"
    plain = item.shown.replace("<", "&lt;") or ("required" if item.default is MISSING else "")
    default = plain or (f"`{item.default_text}`" if item.default not in ("", ()) else "")
    valid = ", ".join(f"`{value}`" for value in item.valid) or item.bounds
    return [flag, default, valid, item.help, ", ".join(item.concerns)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write docs/flags.md, or check it; the exit status: 0 done, 1 the page differs, 2 refused."""
    return exit_status(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("python -m tools.flags_table", "Write docs/flags.md from the declarations of the flags.", "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page differs")
    if not parser.texts(argv).get("check"):
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        print("docs/flags.md differs from the flags; run: python -m tools.flags_table", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
