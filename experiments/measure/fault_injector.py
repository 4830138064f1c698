"""Scripted faults: `--kill NODE@REQUEST` kills a node during an experiment, and each failure is recorded.

SIGKILL ends the node immediately before that timed request of each cell, and another node is started in its place. A
request that fails because of this is recorded in faults.csv and made again until it is answered, so that each cell has
all its samples.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Self

from cluster.dispatcher import UNREACHABLE
from cluster.errors import NoServer
from cluster.launch import Cluster
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.schedule import Kill
from experiments.store import rows
from experiments.store.faults import Fault
from transports.errors import ResourceExhausted, WireError

EXPECTED = (*UNREACHABLE, NoServer, ResourceExhausted)
"""Errors that a kill may cause: a server is gone, no server has its stages yet, or the other servers are full."""
RECOVERY = 60.0
"""Seconds, besides two leases, within which a failure after a kill is expected."""
PAUSE = 0.1
"""Seconds to wait after a failed request, so that immediate refusals do not spin."""


class FaultInjector:
    """Carries out a `Kill` once in each cell, and tells failures that the kill causes from other failures."""

    def __init__(
        self, kill: Kill, replace: Callable[[str], None], log: rows.Writer, clock: Callable[[], float], patience: float
    ) -> None:
        """`replace` kills the named node and starts another. `clock`: the seconds of the samples' `start`. A failure is
        expected for `patience` seconds after the kill."""
        self._kill = kill
        self._replace = replace
        self._log = log
        self._clock = clock
        self._patience = patience
        self._killed: dict[Cell, float] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls, experiment: Experiment, cluster: Cluster | None, log: rows.Writer | None, clock: Callable[[], float]
    ) -> Self | None:
        """The injector of `experiment`; None if it kills no node."""
        if not (experiment.kill and cluster and log):
            return None
        return cls(Kill.parse(experiment.kill), cluster.replace, log, clock, RECOVERY + 2 * experiment.lease)

    def before(self, cell: Cell, run: int) -> None:
        """Kill the node if `run` is the request before which it has to be killed."""
        with self._lock:
            if run != self._kill.request or cell in self._killed:
                return
            self._killed[cell] = now = self._clock()
            self._log.append(Fault(cell, run, now, 0.0, "kill", self._kill.name))
            self._replace(self._kill.name)

    def expected(self, cell: Cell, error: WireError) -> bool:
        """Whether the kill may have caused `error`, the error of a request of `cell` that has now failed."""
        return isinstance(error, EXPECTED) and self._clock() - self._killed.get(cell, -math.inf) < self._patience

    def failed(self, cell: Cell, run: int, start: float, error: WireError) -> None:
        """Record the failure of a request that began at `start`."""
        seconds = self._clock() - start  # before the lock, which is held as long as a node is being replaced
        with self._lock:
            self._log.append(Fault(cell, run, start, seconds, "failed", error.kind, str(error)))
        time.sleep(PAUSE)
