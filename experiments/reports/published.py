"""The figures that the source document published, in seconds, and the cells that they may be compared with.

The document describes neither its machine nor its model: compare the multiples of the local time, not the seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.spec.experiment import Cell


@dataclass(frozen=True)
class Figures:
    """A column of a table of the document: mean and standard deviation in seconds, and the multiple of local."""

    mean: float
    std: float
    ratio: float
    runs: int


PUBLISHED: Mapping[str, Mapping[str, Figures]] = {
    "layer": {
        "local": Figures(0.54863, 0.04415, 1.0, 50),
        "grpc": Figures(1.42036, 0.12214, 2.58892, 50),
        "rpyc": Figures(2.47241, 0.61252, 4.5065, 50),
    },
    "submodel": {
        "local": Figures(0.52443, 0.02925, 1.0, 100),
        "grpc": Figures(0.60116, 0.02863, 1.14631, 100),
    },
}
"""Mode -> transport -> the document's figures ("local" is its column *Niente*)."""


def figures_for(cell: Cell, group: Cell) -> Figures | None:
    """The document's figures for `cell`, in a table of cells split and executed like `group`; `None` if it has none.

    The document timed eager execution, one image per request, nested calls, and submodels on five servers; "local" is
    `whole` x `none`.
    """
    if group.engine != "eager" or group.batch != 1 or group.flow != "nested":
        return None
    if group.mode == "submodel" and group.servers != 5:
        return None
    local = cell.mode == "whole" and cell.transport == "none"
    return PUBLISHED.get(group.mode, {}).get("local" if local else cell.transport if cell.mode == group.mode else "")
