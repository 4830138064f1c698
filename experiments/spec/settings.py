"""Makes cells and experiments from checked values, writes experiments as records, and reads the records.

A value that cannot be used raises a `UsageError` whose text ends with the valid values.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import msgspec

import transports
from cluster import idle, runtimes
from cluster.hosts import Host
from cluster.model_servers import selection
from experiments.spec import machines
from experiments.spec.experiment import CELL_FIELDS, SETTINGS, Cell, Experiment, local_of
from experiments.spec.load import canonical_load
from experiments.spec.paths import anonymous, nameless, portable
from experiments.spec.schedule import Kill
from partitioning.engine_table import is_remote
from partitioning.input_options import PHOTOGRAPH
from partitioning.options import MODEL_FILES
from transports import packing
from transports.errors import UsageError
from transports.limits import TLS_FILES

CLIENT_FILES = ("model", "input")
"""Settings whose values are names of files that the client alone reads. The values of all other settings are UTF-8."""

OWN = ""
"""Stands for the default codec of each transport, the first of `Transport.codecs`."""

FOR_NODES = (
    *("flow", "codec", "local_calls", "registry", "connections", "send", "repeats", "on", "link", "trace", "wire"),
    *("workers", "replicas", "lease", "max_message", "host"),
)
"""Settings of nodes and of the messages between them, which have no effect on a runtime."""

BUNDLED = f"{PHOTOGRAPH.name} (bundled)"
"""How a record names the photograph of the package."""


def cells_of(blocks: Iterable[Mapping[str, tuple[Any, ...]]]) -> tuple[Cell, ...]:
    """The product of the values of each block, one block after the other, each cell once.

    The codec `OWN` becomes the transport's default, and cells whose transport lacks their codec are left out. Raises
    `UsageError` if a transport is left without cells, or its library is not installed.
    """
    products = ((block, values) for block in blocks for values in itertools.product(*block.values()))
    given = [Cell(**dict(zip(block, values, strict=True))) for block, values in products]
    if all(runtimes.is_runtime(cell.transport) for cell in given):
        for cell in given:
            _check_defaults(cell, cell)
    _check_wires(given)
    cells = [canonical(cell) for cell in given]
    codecs = {name: _codecs(name) for name in dict.fromkeys(cell.transport for cell in cells)}
    cells = [replace(cell, codec=cell.codec or codecs[cell.transport][0]) for cell in cells]
    kept = dict.fromkeys(cell for cell in cells if cell.codec in codecs[cell.transport])
    for cell in cells:
        if cell.transport not in {other.transport for other in kept}:
            raise UsageError(
                f"codec: transport {cell.transport!r} has no codec {cell.codec!r}"
                f"{transports.suggest(cell.codec, codecs[cell.transport])} "
                "- give several, and each transport uses those that it has"
            )
    return tuple(kept)


def _check_wires(given: Sequence[Cell]) -> None:
    """Raise `UsageError` for a packing that no cell could use: over `none` and runtimes no message crosses a wire."""
    for wire in dict.fromkeys(cell.wire for cell in given if cell.wire != Cell.wire):
        over = dict.fromkeys(cell.transport for cell in given if cell.wire == wire)
        if all(name == "none" or runtimes.is_runtime(name) for name in over):
            text = f"--wire {wire}: no message crosses a wire over the transport {' or '.join(map(repr, over))}"
            raise UsageError(f"{text}; leave it out, or add a transport")


def _codecs(name: str) -> tuple[str, ...]:
    """The codecs of a transport; for a runtime the default one. Raises `UsageError` (`transports.load`)."""
    if runtimes.is_runtime(name):
        runtimes.load(name)
        return (Cell.codec,)
    return transports.load(name).codecs


def _check_defaults(settings: Cell | Experiment, cell: Cell) -> None:
    """Raise `UsageError` for a setting in `FOR_NODES` that is not the default. `cell` is a cell over a runtime."""
    for name in FOR_NODES:
        value = getattr(settings, name, OWN)
        if value not in (OWN, SETTINGS[name].default):
            text = f"{SETTINGS[name].flag} {value}: it has no effect on the transport {cell.transport!r}, a runtime"
            raise UsageError(f"{text}; leave it out, or add a transport")


def canonical(cell: Cell) -> Cell:
    """The cell with defaults for the settings that do not affect it, so that equal runs are one cell.

    Raises `UsageError` for an invalid load, host, link or packing, and for a cell with both a load and a concurrency.
    """
    cell = replace(cell, load=canonical_load(cell.load))
    if cell.load and cell.concurrency > 1:
        both = f"--load {cell.load} with --concurrency {cell.concurrency}"
        raise UsageError(f"{both}: an open loop has no fixed number in flight; give one of the two")
    if runtimes.is_runtime(cell.transport):
        cell = replace(cell, **{name: getattr(Cell, name) for name in FOR_NODES if hasattr(cell, name)})
    if cell.transport == "none":  # no bytes are written, and no server can be lost
        link = cell.link if is_remote(cell.engine) else Cell.link
        cell = replace(cell, codec=Cell.codec, repeats=Cell.repeats, on=Cell.on, link=link, wire=Cell.wire)
    cell = replace(cell, wire=packing.check(cell.wire))
    if cell.wire.startswith("jpeg:") and cell.mode != "whole":
        raise UsageError(f"--wire {cell.wire}: only the input of a whole model is an image; valid with --mode whole")
    cell = replace(cell, on=machines.canonical_on(cell.on), link=machines.canonical_link(cell.link))
    if cell.mode == "whole" and cell.transport == "none":
        local = local_of(cell)
        if cell.engine == local.engine:
            return local
        # Model servers take several requests at a time.
        return replace(
            local, engine=cell.engine, concurrency=cell.concurrency, load=cell.load, link=cell.link, trace=cell.trace
        )
    if cell.mode == "whole":  # one stage on one server has neither neighbours nor cuts
        return replace(cell, servers=1, placement=Cell.placement, cut=Cell.cut, local_calls=Cell.local_calls)
    return cell if cell.mode == "submodel" else replace(cell, cut=Cell.cut)


def check(experiment: Experiment, cuts: Sequence[str] = ()) -> Experiment:
    """`experiment` itself.

    Raises `UsageError` for a text that is not UTF-8, an option of a transport or engine that no cell uses, a runtime
    that cannot run its cell, `cuts` without a cell of mode submodel, a host that other machines reach without TLS, a
    kill that hits no node of some cell, a stopping condition in an experiment without rounds, a device that this
    machine lacks, and an engine or a packing whose libraries are missing.
    """
    _check_text(experiment)
    if not experiment.hardware.cards and experiment.tf32 == "on":
        raise UsageError("--tf32 on: a processor has no TF32; valid with --device gpu")
    idle.check(experiment.idle)
    served = selection.choose(dict.fromkeys(cell.engine for cell in experiment.cells), experiment.option)
    _check_runtimes(experiment)
    for wire in dict.fromkeys(cell.wire for cell in experiment.cells):
        packing.load(wire)
    names = {cell.transport for cell in experiment.with_locals().cells if not runtimes.is_runtime(cell.transport)}
    for key in experiment.option:
        name = key.partition(".")[0]
        if served and name == selection.OWNER:
            continue
        if name not in names:
            what = "engine with options" if is_remote(name) else "transport"
            valid = sorted(names | ({selection.OWNER} if served else set()))
            raise UsageError(f"--option {key}: no {what} {name!r} in this experiment{transports.suggest(name, valid)}")
        transports.make(name, experiment.options)
    messages = [cell for cell in experiment.cells if not runtimes.is_runtime(cell.transport)]
    remote = [cell for cell in messages if transports.load(cell.transport).addressing != "in-process"]
    for name in dict.fromkeys(cell.transport for cell in remote):
        options = transports.make(name, experiment.options).options
        if not experiment.several_machines:
            transports.check_host(experiment.host, options, experiment.insecure == "on")
    machines.check(experiment)
    if experiment.kill:
        _check_kill(experiment, remote)
    for name in ("until_stable", "limit"):
        if getattr(experiment, name) and experiment.turns == "blocked":
            flag = SETTINGS[name].flag
            raise UsageError(f"{flag}: a run stops after a round; valid with --order shuffled and without --kill")
    if any(cut != Cell.cut for cut in cuts) and all(cell.mode != "submodel" for cell in experiment.cells):
        raise UsageError("--cut: no cell is of mode submodel, and only that mode is cut; valid with --mode submodel")
    return experiment


def _check_text(experiment: Experiment) -> None:
    """Raise `UsageError` for a text with bytes that are no UTF-8, unless it is the name of a file of the client."""
    for holder in (experiment, *experiment.cells):
        for name, value in vars(holder).items():
            if name not in CLIENT_FILES and re.search("[\ud800-\udfff]", str(value)):
                raise UsageError(f"{SETTINGS[name].flag} {value!r}: not UTF-8; only names of files may be other bytes")


def _check_runtimes(experiment: Experiment) -> None:
    """Raise `UsageError` for a setting that a runtime of a cell cannot have."""
    cells = [cell for cell in experiment.cells if runtimes.is_runtime(cell.transport)]
    for cell in cells:
        kind, where = runtimes.load(cell.transport), f"--transport {cell.transport}"
        if cell.engine not in kind.engines:
            text = f"--engine {cell.engine}: {where} cannot execute stages with it"
            raise UsageError(f"{text}; valid: {', '.join(kind.engines)}")
        if cell.concurrency > 1 and not kind.overlaps:
            raise UsageError(f"--concurrency {cell.concurrency}: {where} takes one request at a time; valid: 1")
        if cell.load and not kind.overlaps:
            raise UsageError(f"--load {cell.load}: {where} takes one request at a time; leave out one of the two")
        if not kind.secure and experiment.insecure != "on":
            text = f"{where}: its servers listen on every address of this machine and execute what anyone sends"
            raise UsageError(f"{text}; valid with --insecure on, in a network that you trust")
        for name in ("kill", "pin", *TLS_FILES):
            if getattr(experiment, name) != SETTINGS[name].default:
                raise UsageError(f"{SETTINGS[name].flag}: {where} has none of it; leave out one of the two")
    if cells and len(cells) == len(experiment.cells):
        _check_defaults(experiment, cells[0])


def _check_kill(experiment: Experiment, remote: Sequence[Cell]) -> None:
    """Node N holds the portion N % M, where M is the largest number of servers; every cell must use that portion."""
    if load := next((cell.load for cell in experiment.cells if cell.load), ""):
        raise UsageError(f"--kill: not with --load {load}, whose requests are not made again; leave out one of the two")
    if any(cell.trace == "on" for cell in experiment.cells):
        raise UsageError("--kill: not with --trace on, since spans are lost with a node; leave out one of the two")
    try:
        kill = Kill.parse(experiment.kill)
    except ValueError as error:
        raise UsageError(f"--kill: {error}") from None
    if not remote:
        raise UsageError(f"--kill: there is no {kill.name}; with the transport none alone, no cell has nodes")
    used = {cell: frozenset(machines.servers(experiment, cell)) for cell in remote}
    most = max(map(max, used.values())) + 1
    nodes = range(experiment.replicas * most)
    hit = [f"node-{node}" for node in nodes if all(node % most in servers for servers in used.values())]
    if kill.name not in hit:
        unused = next((cell.name for cell, servers in used.items() if kill.node % most not in servers), "")
        why = f"{kill.name} holds nothing for cell {unused}" if kill.node in nodes else f"there is no {kill.name}"
        raise UsageError(f"--kill: {why}; valid: {', '.join(hit) or 'none, since the cells have no node in common'}")
    if kill.request >= experiment.runs:
        raise UsageError(f"--kill: there is no timed request {kill.request}; valid: 0 to {experiment.runs - 1}")
    if experiment.pin == "on":
        raise UsageError("--kill: the node that replaces the killed one is not pinned; leave --pin off")


def to_record(experiment: Experiment) -> dict[str, Any]:
    """The experiment for a JSON file, without absolute paths of this machine."""
    model = portable(experiment.model) if experiment.model.endswith(MODEL_FILES) else experiment.model
    source = BUNDLED if Path(experiment.input) == PHOTOGRAPH else portable(experiment.input)
    record = {item.name: getattr(experiment, item.name) for item in fields(Experiment)}
    record |= {name: portable(record[name]) for name in TLS_FILES if record[name]}
    cells = [asdict(cell) for cell in experiment.cells]
    record |= {"machines": [host.record() for host in experiment.machines]}
    record |= {"hosts": portable(experiment.hosts)} if experiment.hosts.endswith(".toml") else {}
    record |= {"ssh": anonymous(experiment.ssh), "profile": experiment.profile and portable(experiment.profile)}
    return record | {"model": model, "input": source, "option": nameless(experiment.option), "cells": cells}


def from_record(record: Mapping[str, Any]) -> Experiment:
    """The experiment in a record that `to_record` of this or an earlier version wrote. Ranges are not checked again.

    Raises `UsageError` for a record with an unknown option, or without cells.
    """
    try:
        cells = tuple(Cell(**cell) for cell in record["cells"])
        bundled = {"input": str(PHOTOGRAPH)} if record.get("input") == BUNDLED else {}
        several = [name for name, item in SETTINGS.items() if item.several and name not in CELL_FIELDS]
        listed = {name: tuple(record.get(name, ())) for name in several}
        machines = tuple(msgspec.convert(host, Host) for host in record.get("machines", ()))
        for name, value in record.items():
            if isinstance(found := getattr(Experiment, name, None), str | int | float):
                msgspec.convert(value, str if isinstance(found, str) else float)
        msgspec.convert(record.get("option", {}), dict[str, str])
        return Experiment(**{**record, **bundled, **listed, "cells": cells, "machines": machines})
    except (TypeError, KeyError, AttributeError, msgspec.ValidationError) as error:
        raise UsageError(f"this is no record of an experiment: {error}") from error
