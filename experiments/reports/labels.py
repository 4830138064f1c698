"""The settings of cells in words: names of transports, and labels with the settings in which cells differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import transports
from cluster import runtimes
from experiments.reports import engine_titles
from experiments.reports.markdown import ABSENT
from experiments.spec.experiment import CELL_FIELDS, Cell, local_of
from experiments.spec.settings import FOR_NODES
from experiments.store.samples import EXTRA_FIELDS

WORDS: Mapping[str, str] = {
    **dict.fromkeys(("mode", "flow", "placement"), "{}"),
    "engine": "{} engine",
    "codec": "{} codec",
    "batch": "batch {}",
    "servers": "{} servers",
    "concurrency": "{} in flight",
    "repeats": "{} repeats",
}
"""Setting -> how a value of it is written; other settings are written as `name value`."""


def transport_title(name: str) -> str:
    if runtimes.is_runtime(name):
        return runtimes.kind(name).title
    return transports.kind(name).title if name in transports.NAMES else name


def value_of(cell: Cell, name: str) -> str:
    """The value of a setting; `ABSENT` for a runtime, if it concerns nodes or the messages between them."""
    meaningless = runtimes.is_runtime(cell.transport) and name in FOR_NODES
    return ABSENT if meaningless else str(getattr(cell, name))


def column_title(cell: Cell) -> str:
    """`"gRPC (tensorproto)"`: the head of a cell's column; the default codec is not written."""
    return transport_title(cell.transport) + (f" ({cell.codec})" if cell.codec != Cell.codec else "")


def unusual(cell: Cell) -> list[str]:
    """The settings outside a cell's short name that are not the default: `["registry per-hop"]`."""
    named = ((name, str(getattr(cell, name))) for name in EXTRA_FIELDS)
    return [f"{_dashed(name)} {value}" for name, value in named if value != str(getattr(Cell, name))]


SILENT = ("codec", "load", "on", "link", "label", "trace", "wire")
"""Settings that a label leaves out if they have their default."""


class Settings:
    """The settings of `cells` and what differs between them; local models are left out, unless there are no others.

    `differing`: names of settings with several values; `transport` is always among them, as is the engine of a model
    server. A cut at named operations is written `cut 1`, `cut 2`, ..., and links `link 1`, `link 2`, ...; `legend`
    explains these names.
    """

    def __init__(self, cells: Sequence[Cell], titles: engine_titles.Titles | None = None) -> None:
        titles = titles or {}
        self._titles = titles
        compared = [cell for cell in cells if cell != local_of(cell)] or list(cells)
        values = {name: {getattr(cell, name) for cell in compared} for name in CELL_FIELDS}
        served = {"engine"} if titles.keys() & values["engine"] else set()
        self.differing = ["transport", *(n for n in CELL_FIELDS[1:] if len(values[n]) > 1 or n in served)]
        self.cuts = _numbered(cell.cut for cell in compared if "+" in cell.cut)
        self.links = _numbered(cell.link for cell in compared if cell.link)
        first = compared[0] if compared else Cell()
        rest = [name for name in CELL_FIELDS[1:] if name not in self.differing]
        shown = [name for name in rest if name not in EXTRA_FIELDS or getattr(first, name) != getattr(Cell, name)]
        self.constant = ", ".join(self.word(first, name) for name in shown) if compared else ""

    def value(self, cell: Cell, name: str) -> str:
        """The value of a setting as a table shows it."""
        value = value_of(cell, name)
        return {"engine": self._titles, "cut": self.cuts, "link": self.links}.get(name, {}).get(value, value)

    def word(self, cell: Cell, name: str) -> str:
        """The value of a setting as a text shows it: `"batch 8"`."""
        if name == "transport":
            return transport_title(cell.transport)
        if name == "engine" and cell.engine in self._titles:
            return self._titles[cell.engine]
        return WORDS.get(name, f"{_dashed(name)} {{}}").format(self.value(cell, name))

    def label(self, cell: Cell) -> str:
        """What distinguishes the cell: `"gRPC, hub, batch 8"`, `"Local, batch 8"`. The default codec is not written."""
        if cell == local_of(cell):
            return ", ".join(["Local", *(self.word(cell, n) for n in self.differing if n in ("engine", "batch"))])
        names = [n for n in self.differing if n not in SILENT or getattr(cell, n) != getattr(Cell, n)]
        return ", ".join(self.word(cell, name) for name in names)

    def title(self, cell: Cell) -> str:
        """What distinguishes the cell, apart from what carries its tensors: `"hub, batch 8"`; may be empty."""
        names = [name for name in self.differing if name not in ("transport", "codec")]
        shown = [name for name in names if name not in SILENT or getattr(cell, name) != getattr(Cell, name)]
        return ", ".join(self.word(cell, name) for name in shown)

    def legend(self) -> list[str]:
        """`["cut 1: before add and relu"]`: the operations of each named cut, and the links."""
        cuts = [f"cut {number}: before {', '.join(cut.split('+'))}" for cut, number in self.cuts.items()]
        return cuts + [f"link {number}: {link}" for link, number in self.links.items()]


def _numbered(values: Iterable[str]) -> dict[str, str]:
    return {value: str(number) for number, value in enumerate(dict.fromkeys(values), 1)}


def _dashed(name: str) -> str:
    return name.replace("_", "-")
