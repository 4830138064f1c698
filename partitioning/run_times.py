"""Seconds of fused runs of operations under an engine, measured in this process as a node executes them.

A run of the operations `first..last-1` is one stage: its inputs arrive as arrays and its outputs leave as arrays. Runs
are timed in shuffled rounds, so that a disturbance of the machine affects all runs alike. Before each call the process
waits, as a node waits for a message: a processor that has slept, and caches that other programs have used meanwhile,
make a call slower than a call that follows another call at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from partitioning import engines
from partitioning.costs import Call, all_values, no_collection
from partitioning.graph import Graph
from partitioning.plan import Stage
from partitioning.program import Program

Run = tuple[int, int]
"""(first operation, end)."""
PAUSE = 0.005
"""Seconds between two calls."""
WARM_UPS = 3
"""Calls of each run before the first timed one: TensorFlow optimises a function when it first runs."""


def stage_of(graph: Graph, run: Run) -> Stage:
    """The operations of the run as a stage."""
    first, last = run
    inside = graph.operations[first:last]
    made = {name for operation in inside for name in operation.outputs}
    later = {name for operation in graph.operations[last:] for name in operation.inputs} | set(graph.outputs)
    taken = dict.fromkeys(name for operation in inside for name in operation.inputs if name not in made)
    given = tuple(name for operation in inside for name in operation.outputs if name in later)
    return Stage(f"run-{first}-{last}", tuple(taken), given, tuple(operation.name for operation in inside))


def measure(
    program: Program, inputs: Mapping[str, Any], engine: str, runs: Sequence[Run], rounds: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """[run, round] -> seconds. `inputs` are arrays by name. Raises `PartitionError` for a run that cannot be built."""
    values = {name: engines.to_array(value) for name, value in all_values(program, inputs).items()}
    calls = [_call(program, engine, stage_of(program.graph, run), values) for run in runs]
    seconds = np.zeros((len(runs), rounds))
    order, rng = list(range(len(runs))), random.Random(seed)
    with no_collection():
        for call in calls * WARM_UPS:
            call()
        for number in range(rounds):
            rng.shuffle(order)
            for place in order:
                time.sleep(PAUSE)
                begin = time.perf_counter()
                calls[place]()
                seconds[place, number] = time.perf_counter() - begin
    return seconds


def _call(program: Program, engine: str, stage: Stage, values: Mapping[str, Any]) -> Call:
    executable = engines.build(engine, program, stage)
    arrays = [values[name] for name in stage.inputs]
    return lambda: [engines.to_array(value) for value in executable(arrays)]
