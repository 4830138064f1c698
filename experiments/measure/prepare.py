"""Prepares an experiment before any process starts: model, inputs, expected outputs, partitions, workers.

Unusable values are refused here.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster import runtimes
from cluster.flows import FLOWS
from cluster.partition import Partition
from cluster.request import Route
from cluster.workers import workers_needed
from experiments.measure import gate, memory, packed
from experiments.measure.gate import Right
from experiments.measure.model_servers import Serving
from experiments.measure.ties import scores_of
from experiments.measure.tolerance import Tolerance, tolerance_of
from experiments.spec import machines
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.spec.load import in_flight
from partitioning.engine_table import is_remote, local_engine
from partitioning.errors import PartitionError
from partitioning.inputs.variants import photographs, variants
from partitioning.placement import PLACEMENTS
from partitioning.strategies import make_plan
from partitioning.strategy_table import CUTS, SLACKS
from transports.base import Array
from transports.errors import UsageError

if TYPE_CHECKING:
    from partitioning.models import LoadedModel
    from partitioning.plan import Plan
    from partitioning.program import Program

Tensors = Mapping[str, Array]
LINKED = "linked"
"""The last word of the name of a partition whose nodes are in this process and call model servers over links."""


@dataclass(frozen=True)
class Prepared:
    """An experiment, ready to run. `inputs` and `expected` map a batch size to a few variants."""

    experiment: Experiment
    program: Program
    partitions: Mapping[Cell, Partition]
    inputs: Mapping[int, Sequence[Tensors]]
    expected: Mapping[int, Sequence[Right]]
    tolerance: Tolerance
    workers: int
    """How many calls a server must be able to handle at the same time."""
    model_servers: Serving
    warning: str = ""
    """Why the check of outputs is weak; empty if it is not."""

    def chosen(self, *, remote: bool) -> list[Partition]:
        """The partitions that nodes hold, with the engines of their cells: nodes in other processes if `remote`, else
        nodes in this process.

        The local model and runtimes need no node.
        """
        cells = (cell for cell in self.partitions if (cell.transport != "none") == remote and cell != local_of(cell))
        return list(self.with_engines(cell for cell in cells if not runtimes.is_runtime(cell.transport)).values())

    def with_engines(self, cells: Iterable[Cell]) -> dict[Partition, Partition]:
        """Each partition of `cells` -> the same partition with the engines of these cells."""
        engines: dict[Partition, dict[str, None]] = {}
        for cell in cells:
            engines.setdefault(self.partitions[cell], {})[cell.engine] = None
        return {partition: replace(partition, engines=tuple(names)) for partition, names in engines.items()}

    @property
    def served(self) -> list[Partition]:
        """The partitions whose stages run in model servers."""
        cells = (cell for cell in self.partitions if is_remote(cell.engine))
        return list(dict.fromkeys(self.partitions[cell] for cell in cells))

    @property
    def transports(self) -> tuple[str, ...]:
        """The transports of the cells, each once, without runtimes."""
        names = dict.fromkeys(cell.transport for cell in self.experiment.cells)
        return tuple(name for name in names if not runtimes.is_runtime(name))


def prepare(experiment: Experiment) -> Prepared:
    """Load, cut, place and check. Raises `UsageError` for an unusable value."""
    from partitioning import models

    try:
        memory.check_model(lambda: models.weights_of(experiment.model))
        loaded = models.load(
            *(experiment.model, experiment.weights, experiment.seed),
            calibrate_with=photographs(experiment, (224, 224), 4),
            imports=experiment.imports,
            trust=experiment.trust_model == "on",
        )
        batches = sorted({cell.batch for cell in experiment.cells})
        whole = loaded.read(experiment.absent)
        inputs = {batch: _inputs(experiment, loaded, whole, batch) for batch in batches}
        tolerance = tolerance_of(whole, tf32=experiment.hardware.tf32)
        expected = {
            batch: [_right(loaded, whole, variant, tolerance) for variant in inputs[batch]] for batch in batches
        }
        partitions = _partitions(whole, inputs[batches[0]][0], experiment)
        _check_json(partitions)
        packed.check(partitions, inputs)
        memory.check_batch(whole.graph, batches[-1])
    except PartitionError as error:
        raise UsageError(str(error)) from error
    _check_steady(whole, inputs[batches[0]][0])
    workers, served, warning = _workers(experiment, partitions), Serving.of(experiment), _alike(expected[batches[0]])
    prepared = Prepared(experiment, whole, partitions, inputs, expected, tolerance, workers, served, warning)
    memory.check_processes(prepared, weights := loaded.model.count_params())
    memory.check_disk(len(prepared.chosen(remote=True)), weights)
    return prepared


def route_of(cell: Cell, partition: Partition) -> Route:
    """The route of the requests of `cell`."""
    return Route(
        partition=partition.name,
        engine=cell.engine,
        transport=cell.transport,
        codec=cell.codec,
        flow=cell.flow,
        local_calls=cell.local_calls == "on",
        registry=cell.registry,
        connections=cell.connections,
        send=cell.send,
        linked=bool(cell.link) and cell.transport != "none",
        wire=cell.wire,
    )


def _partitions(program: Program, sample: Tensors, experiment: Experiment) -> dict[Cell, Partition]:
    """The partition of each cell; cells with equal keys share one.

    Its name is its mode, or its whole key if the mode has several partitions. The costs of operations and of stages are
    measured with the inputs `sample`, those of operations once for each engine that needs them.
    """

    from partitioning import costs  # TensorFlow

    @functools.cache
    def costs_of(engine: str) -> Mapping[str, float]:
        return costs.measure(program, sample, engine)

    @functools.cache
    def measured(engine: str, cut: str, groups: int) -> Plan:
        return costs.cut_by_cost(program, sample, engine, cut, groups, costs_of(engine))[0]

    keys = {cell: _partition_key(cell) for cell in experiment.cells}
    modes = Counter(key[0] for key in set(keys.values()))
    made: dict[tuple[str, ...], Partition] = {}
    for cell, key in keys.items():
        if key in made:
            continue
        if cell.mode == "submodel" and cell.cut in SLACKS:
            plan = measured(local_engine(cell.engine), cell.cut, cell.servers)
        else:
            plan = make_plan(program.graph, cell.mode, cell.cut, cell.servers)
        if cell.servers > len(plan.stages):
            text = f"--servers {cell.servers}: the plan {cell.mode!r} of this model has {len(plan.stages)} stages"
            raise UsageError(f"{text}; give at most as many servers")
        name = cell.mode if modes[cell.mode] == 1 and LINKED not in key else "-".join(key)
        chosen = machines.servers(experiment, cell)
        placed = PLACEMENTS[cell.placement](plan, cell.servers)
        made[key] = Partition(name, plan, {stage: chosen[server] for stage, server in placed.items()}, ())
    return {cell: made[key] for cell, key in keys.items()}


def _partition_key(cell: Cell) -> tuple[str, ...]:
    """The settings that determine a partition, the mode first. Measured cuts depend on the engine."""
    words = [cell.mode, f"s{cell.servers}", cell.placement]
    if cell.mode == "submodel":
        words.append(cell.cut if cell.cut in CUTS else _digest(cell.cut))
        words += [local_engine(cell.engine)] if cell.cut in SLACKS else []
    if cell.on:  # labels may have any characters, and the key becomes part of a file's name
        words.append(cell.on if re.fullmatch(r"[A-Za-z0-9_.+-]{1,80}", cell.on) else _digest(cell.on))
    words += [LINKED] if cell.link and cell.transport == "none" else []
    return tuple(words)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _inputs(experiment: Experiment, loaded: LoadedModel, program: Program, batch: int) -> list[Tensors]:
    """The variants of a request's input, at most as many as a cell has timed requests."""
    client = program.client
    assert client is not None
    given = variants(experiment, client, batch, loaded.preprocess, experiment.seed, experiment.runs)
    return [client.prepare(inputs) for inputs in given]


def _right(loaded: LoadedModel, program: Program, inputs: Tensors, tolerance: Tolerance) -> Right:
    """The right values of the outputs that servers return: the model called as a whole by Keras alone."""
    assert program.client is not None
    right = program.client.answer(loaded.model, inputs)
    returned = {name: array for name, array in right.items() if name in program.graph.outputs}
    if not returned:
        raise UsageError("no output of the model can be compared: servers return none of them (they are strings)")
    return Right(returned, tolerance, scores_of(program, inputs))


def _check_steady(program: Program, inputs: Tensors) -> None:
    """Raise `UsageError` for a model that may answer differently when it is called again with the same inputs."""
    from partitioning.sampling import unsteady

    if found := unsteady(program, inputs):
        names = ", ".join(map(repr, found))
        raise UsageError(
            f"the model answers differently to the same input, so no output can be checked (cause: {names}); build it "
            "without sampling and state"
        )


def _alike(expected: Sequence[Right]) -> str:
    """A warning if the model answers all inputs alike, since the gate then accepts the answer to another request;
    empty otherwise."""
    first, *others = expected
    pairs = [(other.outputs[name], name) for other in others for name in first.outputs]
    if not pairs or any(gate.compare(output, first, name).fault for output, name in pairs):
        return ""
    return (
        "the model answers all inputs alike, so that a wrong answer may pass the check; give inputs that it tells "
        "apart (--input), or images in the range that it takes (--scale)"
    )


def _check_json(partitions: Mapping[Cell, Partition]) -> None:
    """Raise `UsageError` if JSON cannot hold the dtype of a tensor that goes to a model server over REST."""
    rest = [partition for cell, partition in partitions.items() if cell.engine == "tfserving-rest"]
    for partition in dict.fromkeys(rest):
        from tfserving.json_arrays import LISTED  # needs the extra `serving`

        for name, edge in partition.plan.edges.items():
            if edge.dtype not in LISTED:
                raise UsageError(
                    f"--engine tfserving-rest: JSON cannot hold tensor {name!r}, which is {edge.dtype}; "
                    "valid with --engine tfserving"
                )


def _workers(experiment: Experiment, partitions: Mapping[Cell, Partition]) -> int:
    """The workers of each server, enough for every cell. Raises `UsageError` if `--workers` is too small."""
    needed = {
        cell.name: in_flight(cell, experiment)
        * workers_needed(partition, local_calls=cell.local_calls == "on", send=cell.send)
        for cell, partition in partitions.items()
        if cell.transport != "none" and not runtimes.is_runtime(cell.transport) and FLOWS[cell.flow].waits
    }
    name, most = max(needed.items(), key=lambda item: item[1], default=("", 1))
    if 0 < experiment.workers < most:
        raise UsageError(
            f"--workers {experiment.workers}: cell {name} needs {most}, since its nested calls wait in {most} workers "
            f"of one server at once and would block for good; give --workers {most} or more, or leave it out"
        )
    # One more than needed: a server may receive the next request before the previous one has released its worker.
    # Messages may also arrive from all other servers at once; their workers wait for no other server.
    others = max(2 * cell.servers + in_flight(cell, experiment) for cell in partitions)
    return experiment.workers or max(most, others) + 1
