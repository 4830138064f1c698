"""From what a person wrote to checked values, cells and options. Knows neither argparse nor TOML.

Rules:
  - What a setting is (its type, its default, its valid values) is read from the fields of `Cell` and `Experiment`.
  - A setting of a cell takes several values and spans a matrix; a setting of the experiment takes one.
  - Whatever cannot be used is a `UsageError` that starts with where it stands and ends with what would be valid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import transports
from cluster.leases import LEAST_LEASE
from cluster.model_servers import selection
from experiments.spec.experiment import PHOTOGRAPH, Cell, Experiment, local_of
from experiments.spec.kill import Kill
from experiments.spec.paths import nameless, portable
from partitioning.engine_table import is_remote
from partitioning.placement import ALIASES
from partitioning.strategies import CUTS
from transports.errors import UsageError
from transports.limits import CONNECTIONS, DAY, TLS_FILES

LEAST: Mapping[str, float] = {
    **dict.fromkeys(("batch", "servers", "concurrency", "runs", "replicas", "max_message"), 1),
    **dict.fromkeys(("warmup", "workers", "threads", "seed", "repeats"), 0),
    "lease": LEAST_LEASE,
}
MOST: Mapping[str, float] = {
    **dict.fromkeys(("runs", "warmup", "repeats"), 10**7),
    **dict.fromkeys(("timeout", "lease"), DAY),
    "batch": 10**6,  # memory, which `experiments.measure.memory` asks for, is the limit of most models long before
    "concurrency": CONNECTIONS // 4,  # a server holds the connections of all clients and of every other server
    "replicas": 64,
    "seed": 2**32 - 1,  # numpy and Keras take no larger one
    "threads": 1024,
    "workers": 2**16,
}

OWN = ""
"""In place of a codec: each transport's own (the first of `Transport.codecs`), where the person has named none."""

BUNDLED = f"{PHOTOGRAPH.name} (bundled)"
"""How a record names the photograph that comes with the package, wherever the package lies."""


@dataclass(frozen=True)
class Setting:
    """What a person may set: a field of `Cell` (`of_cell`) or of `Experiment`."""

    name: str
    kind: type
    default: Any
    help: str
    valid: tuple[str, ...] | None
    of_cell: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _settings(noun: type[Cell] | type[Experiment]) -> dict[str, Setting]:
    hints = get_type_hints(noun)
    return {
        item.name: Setting(item.name, hints[item.name], item.default, **item.metadata, of_cell=noun is Cell)
        for item in fields(noun)
        if item.default is not MISSING  # `cells` and `option` are no single values
    }


SETTINGS: Mapping[str, Setting] = _settings(Cell) | _settings(Experiment)
"""Every setting by its field's name, those of cells first."""


def values_of(setting: Setting, raw: Any, where: str) -> tuple[Any, ...]:
    """The checked values in `raw`: a text, in which a comma separates values of a cell's setting, or what TOML gave."""
    if setting.name == "cut":
        return tuple(_checked(setting, value, where) for value in _cuts(raw, where))
    if not setting.of_cell:
        return (_checked(setting, raw, where),)
    items = raw.split(",") if isinstance(raw, str) else raw if isinstance(raw, list) else [raw]
    if not items:
        raise UsageError(f"{where}: an empty list; give at least one value")
    return tuple(dict.fromkeys(_checked(setting, item, where) for item in items))


def _cuts(raw: Any, where: str) -> list[Any]:
    """`"equal,balanced"` is two cuts, `"a,b"` is one at two operations, and a list holds a cut an item."""
    if isinstance(raw, list):
        return [cut for item in raw for cut in _cuts(item, where)] or _cuts("", where)
    if not isinstance(raw, str):
        return [raw]
    items = [item.strip() for item in raw.split(",")]
    whole = [item in CUTS or "+" in item for item in items]
    if not all(whole) and any(whole):
        raise UsageError(f"{where}: {raw!r} mixes cuts and operations; join the operations of one cut with '+'")
    return items if all(whole) else ["+".join(items)]


def _checked(setting: Setting, raw: Any, where: str) -> Any:
    value = _READERS[setting.kind](raw, where)
    value = ALIASES.get(value, value) if setting.name == "placement" else value
    if setting.valid is not None and value not in setting.valid:
        raise UsageError(f"{where}: no {setting.name} {value!r}{transports.suggest(value, setting.valid)}")
    if value == "" and setting.default != "":
        raise UsageError(f"{where}: an empty value; {setting.help}")
    if value != "" and setting.name == "cut" and "" in (part.strip() for part in value.split("+")):
        raise UsageError(f"{where}: {raw!r} has an empty operation name in it")
    _check_range(setting.name, value, where)
    return value


def _check_range(name: str, value: Any, where: str) -> None:
    if name in LEAST and value < LEAST[name]:
        raise UsageError(f"{where}: {value} is too small; valid: {LEAST[name]} or more")
    if name in MOST and value > MOST[name]:
        raise UsageError(f"{where}: {value} is too large; valid: {MOST[name]} or less")
    if name == "timeout" and value <= 0:
        raise UsageError(f"{where}: {value:g} is too small; valid: more than 0 seconds")


def _text(raw: Any, where: str) -> str:
    if not isinstance(raw, str):
        raise UsageError(f"{where}: {raw!r} is no text; write it in quotes")
    return raw.strip()


def _integer(raw: Any, where: str) -> int:
    try:
        if isinstance(raw, int | str) and not isinstance(raw, bool):
            return int(raw)
    except ValueError:
        pass
    raise UsageError(f"{where}: {raw!r} is no whole number")


def _number(raw: Any, where: str) -> float:
    try:
        if isinstance(raw, int | float | str) and not isinstance(raw, bool) and math.isfinite(value := float(raw)):
            return value
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{where}: {raw!r} is no number")


_READERS: Mapping[Any, Callable[[Any, str], Any]] = {str: _text, int: _integer, float: _number}


def cells_of(blocks: Iterable[Mapping[str, tuple[Any, ...]]]) -> tuple[Cell, ...]:
    """The product of the values of each block, one block after the other, each cell once.

    `OWN` stands for the codec of each transport. A cell whose codec its transport does not have is left out. Raises
    `UsageError` where a transport would be left without any, or where its library is not there.
    """
    products = (zip(itertools.repeat(tuple(block)), itertools.product(*block.values())) for block in blocks)
    cells = [_canonical(Cell(**dict(zip(*pair, strict=True)))) for pairs in products for pair in pairs]
    return tuple(dict.fromkeys(_with_codecs(cells)))


def _canonical(cell: Cell) -> Cell:
    """The cell without settings that cannot matter to it, so that a matrix does not time one thing twice."""
    if cell.transport == "none":  # it writes no bytes, and loses nobody
        cell = replace(cell, codec=Cell.codec, repeats=Cell.repeats)
    if cell.mode == "whole" and cell.transport == "none":
        local = local_of(cell)  # or, where a model server is called, that without all else that cannot matter
        return (
            local if cell.engine == local.engine else replace(local, engine=cell.engine, concurrency=cell.concurrency)
        )
    if cell.mode == "whole":  # one stage lies on one server, and has neither neighbours nor cuts
        return replace(cell, servers=1, placement=Cell.placement, cut=Cell.cut, local_calls=Cell.local_calls)
    return cell if cell.mode == "submodel" else replace(cell, cut=Cell.cut)


def _with_codecs(asked: Iterable[Cell]) -> tuple[Cell, ...]:
    cells = tuple(dict.fromkeys(asked))
    codecs = {name: transports.load(name).codecs for name in dict.fromkeys(cell.transport for cell in cells)}
    cells = tuple(replace(cell, codec=cell.codec or codecs[cell.transport][0]) for cell in cells)
    kept = tuple(cell for cell in cells if cell.codec in codecs[cell.transport])
    for cell in cells:
        if cell.transport not in {other.transport for other in kept}:
            valid = transports.suggest(cell.codec, codecs[cell.transport])
            raise UsageError(
                f"codec: transport {cell.transport!r} has no codec {cell.codec!r}{valid} "
                f"- give several, and each transport uses those that it has"
            )
    return kept


def check(experiment: Experiment, cuts: Sequence[str] = ()) -> Experiment:
    """`experiment` itself.

    Raises `UsageError` for an option that nothing takes, `cuts` that nothing heeds, a host that is open to others, a
    kill that hits nobody, and an engine whose libraries are not there.
    """
    _check_options(experiment)
    _check_wires(experiment)
    if any(cut != Cell.cut for cut in cuts) and all(cell.mode != "submodel" for cell in experiment.cells):
        raise UsageError("--cut: no cell is of mode submodel, and only that mode is cut; valid with --mode submodel")
    return experiment


def _check_options(experiment: Experiment) -> None:
    served = selection.choose(dict.fromkeys(cell.engine for cell in experiment.cells), experiment.option)
    names = {cell.transport for cell in experiment.with_locals().cells}
    for key in experiment.option:
        name = key.partition(".")[0]
        if served and name == selection.OWNER:
            continue
        if name not in names:
            what = "engine with options" if is_remote(name) else "transport"
            valid = sorted(names | ({selection.OWNER} if served else set()))
            raise UsageError(f"--option {key}: no {what} {name!r} in this experiment{transports.suggest(name, valid)}")
        transports.make(name, experiment.options)


def _check_wires(experiment: Experiment) -> None:
    wires = [cell for cell in experiment.cells if not transports.load(cell.transport).local]
    for name in dict.fromkeys(cell.transport for cell in wires):
        options = transports.make(name, experiment.options).options
        transports.check_host(experiment.host, options, experiment.insecure == "on")
    if experiment.kill:
        _check_kill(experiment, wires)


def _check_kill(experiment: Experiment, wires: Sequence[Cell]) -> None:
    try:
        kill = Kill.parse(experiment.kill)
    except ValueError as error:
        raise UsageError(f"--kill: {error}") from None
    _check_node(kill, wires, experiment.replicas)
    if kill.request >= experiment.runs:
        raise UsageError(f"--kill: there is no timed request {kill.request}; valid: 0 to {experiment.runs - 1}")
    if experiment.pin == "on":
        raise UsageError("--kill: a node that starts anew is not pinned; leave --pin off")


def _check_node(kill: Kill, wires: Sequence[Cell], replicas: int) -> None:
    """Node N holds the portion N % M, where M is the most servers that a cell has; it has to have one in every cell."""
    if not wires:
        raise UsageError(f"--kill: there is no {kill.name}; no cell has any, with the transport none alone")
    most, fewest = max(cell.servers for cell in wires), min(wires, key=lambda cell: cell.servers)
    nodes = range(replicas * most)
    hit = [f"node-{node}" for node in nodes if node % most < fewest.servers]
    if kill.name not in hit:
        why = f"{kill.name} holds nothing for cell {fewest.name}" if kill.node in nodes else f"there is no {kill.name}"
        raise UsageError(f"--kill: {why}; valid: {', '.join(hit)}")


def to_record(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON takes it, without a path of this machine."""
    model = portable(experiment.model) if experiment.model.endswith(".keras") else experiment.model
    source = BUNDLED if Path(experiment.input) == PHOTOGRAPH else portable(experiment.input)
    record = {item.name: getattr(experiment, item.name) for item in fields(Experiment)}
    record |= {name: portable(record[name]) for name in TLS_FILES if record[name]}
    cells = [asdict(cell) for cell in experiment.cells]
    return record | {"model": model, "input": source, "option": nameless(experiment.option), "cells": cells}


def from_record(record: Mapping[str, Any]) -> Experiment:
    """The experiment that `to_record` wrote down. Raises `UsageError` where `record` is none."""
    try:
        cells = tuple(Cell(**{str(key): cell[key] for key in cell}) for cell in record["cells"])
        values = {key: record[key] for key in record if key != "cells"}
        if values.get("input") == BUNDLED:
            values["input"] = str(PHOTOGRAPH)
        return Experiment(cells=cells, **values)
    except (TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"this is no record of an experiment: {error}") from error
