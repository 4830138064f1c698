"""The lease of a server on its portion: taken when the server starts, kept by heartbeats, given back at the end."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from cluster.errors import NoPortion, StaleEpoch
from cluster.registry import PREFIX, fields_read, positive, whole
from transports.address import Address
from transports.base import Message, Transport
from transports.errors import WireError
from transports.pool import Pool
from transports.process import StopSignal

log = logging.getLogger("splitbench.cluster")

HEARTBEATS = 5
"""Heartbeats within the duration of a lease, so that three in a row may be lost."""
START_TIMEOUT = 30.0
"""Seconds within which the registry has to answer while a server starts."""
HEARTBEAT_TIMEOUT = 1.0
"""Most seconds within which the registry has to answer a heartbeat."""
RETRY = 0.2
"""Seconds between two attempts to take a portion that is not free yet."""


Stop = threading.Event | StopSignal
"""A flag that ends a server: set by a signal, or by the server itself when it has lost its portion."""


class LeaseClient:
    """Registers at `registry` over `transport`, and again whenever a new registry starts at that address.

    If the lease has expired (the process was suspended, the network failed), the client takes a new one, with another
    epoch. If another server has taken the portion meanwhile, it calls `lost` once with the error and sends no more
    heartbeats.

    `server` is the index of the portion; `epoch` is the number that messages to this server have to name.
    """

    def __init__(
        self,
        transport: Transport,
        registry: Address,
        addresses: Mapping[str, Address],
        *,
        claim: int | None = None,
        patience: float = 0.0,
        stop: Stop | None = None,
        lost: Callable[[WireError], None] = lambda error: None,
    ) -> None:
        """Take portion `claim` (None: a portion with the fewest holders). While it is taken, try again for `patience`
        seconds or until `stop` is set.

        Raises `NoPortion` if the portion is still taken then, and any other `WireError` at once.
        """
        self._pool = Pool(transport)
        self._registry = registry
        self._addresses = {f"{PREFIX}{name}": str(address) for name, address in addresses.items()}
        self._awaited: dict[str, str] = {}
        self._reported = True
        self._lost = lost
        self._over = threading.Event()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as undo:
            undo.callback(self._pool.close)
            self.server, self.epoch, ttl = self._take(claim, time.monotonic() + patience, stop or self._over)
            undo.pop_all()
        self._thread = threading.Thread(target=self._beat, args=(ttl / HEARTBEATS,), name="heartbeat", daemon=True)
        if ttl < math.inf:
            self._thread.start()

    def report(self, awaited: Mapping[str, Iterable[str]]) -> None:
        """Report the awaited tensors (partition -> tensors) to the registry, and to every later one at its address."""
        with self._lock:
            self._awaited = {partition: "\n".join(tensors) for partition, tensors in awaited.items()}
            self._reported = False
            self._keep(START_TIMEOUT)

    def leave(self) -> None:
        """Give the portion back, so that this server gets no more requests. An absent registry is no error."""
        self._over.set()
        with self._lock:
            try:
                self._ask(Message("leave", {"epoch": self.epoch}), HEARTBEAT_TIMEOUT)
            except WireError as error:
                log.info("epoch %d could not be given back to the registry: %s", self.epoch, error)

    def close(self) -> None:
        """Send no more heartbeats. Idempotent."""
        self._over.set()
        self._pool.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _take(self, claim: int | None, until: float, stop: Stop) -> tuple[int, int, float]:
        """Portion, epoch and duration of the first lease."""
        while True:
            try:
                return self._register({} if claim is None else {"server": claim}, START_TIMEOUT)
            except NoPortion:
                if time.monotonic() > until or stop.wait(RETRY):
                    raise

    def _register(self, claim: Mapping[str, int], timeout: float) -> tuple[int, int, float]:
        fields = self._ask(Message("register", {**self._addresses, **claim}), timeout).fields
        with fields_read(f"the registry at {self._registry} answered 'register' with"):
            return whole(fields, "server"), whole(fields, "epoch"), positive(fields, "ttl")

    def _beat(self, interval: float) -> None:
        """Send a heartbeat every `interval` seconds, until the client closes or its portion is lost."""
        timeout = min(HEARTBEAT_TIMEOUT, interval)
        due = time.monotonic() + interval
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - interval) + interval
            try:
                with self._lock:
                    if not self._over.is_set():
                        self._keep(timeout)
            except NoPortion as error:
                self._lost(error)
                return
            except WireError as error:
                log.warning("a heartbeat to the registry at %s failed, the next one follows: %s", self._registry, error)

    def _keep(self, timeout: float) -> None:
        """Renew the lease. If the registry has no such lease, register and report again."""
        try:
            self._ask(Message("renew", {"epoch": self.epoch}), timeout)
        except StaleEpoch:
            self._reported = False
            _, self.epoch, _ = self._register({"server": self.server, "epoch": self.epoch}, timeout)
        if not self._reported:
            for partition, tensors in self._awaited.items():
                report = Message("report", {"epoch": self.epoch, "partition": partition, "tensors": tensors})
                self._ask(report, timeout)
            self._reported = True

    def _ask(self, question: Message, timeout: float) -> Message:
        return self._pool.call(self._registry, question, timeout)[0]
