"""A server's place in the registry: taken at its start, kept by heartbeats, given back at its end."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from cluster.errors import NoPortion, StaleEpoch
from cluster.registry import PREFIX
from transports.address import Address
from transports.base import Message, Transport
from transports.errors import WireError
from transports.pool import Pool
from transports.process import StopSignal

log = logging.getLogger("splitbench.cluster")

BEATS = 5
"""Heartbeats within the life of a lease: three in a row may be lost."""
ANSWER = 30.0
"""Seconds that the registry may take for a question while a server starts."""
BEAT = 1.0
"""Seconds that it may take for one later on, when nothing waits for that."""
RETRY = 0.2
"""Seconds until a server asks again for a portion that is not free yet."""


Stop = threading.Event | StopSignal
"""What ends a server: set by a signal, or by the server itself when it has lost its portion."""


class LeaseClient:
    """Registered at `registry` over `transport`, and again with every registry that takes its place there.

    A lease that ran out (the process was stopped, the network was gone) is taken anew under another epoch. Where
    somebody else has taken the portion meanwhile, `lost` is called with the reason, once, and nothing more happens.
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
        """Take portion `claim` (None: one that is missing), waiting up to `patience` seconds for a free one, or `stop`.

        Raises `NoPortion` where there is none by then, and any other `WireError` of asking.
        """
        self._pool = Pool(transport)
        self._registry = registry
        self._addresses = {f"{PREFIX}{name}": str(address) for name, address in addresses.items()}
        self._awaited: dict[str, str] = {}
        self._told = True
        self._lost = lost
        self._over = threading.Event()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as undo:
            undo.callback(self._pool.close)
            self.server, self.epoch, ttl = self._first(claim, time.monotonic() + patience, stop or self._over)
            undo.pop_all()
        """The portion's index, and the epoch under which this server may be sent anything."""
        self._answer = min(BEAT, ttl / BEATS)
        self._thread = threading.Thread(target=self._beat, args=(ttl / BEATS,), name="heartbeat", daemon=True)
        if ttl < math.inf:
            self._thread.start()

    def report(self, awaited: Mapping[str, Iterable[str]]) -> None:
        """Tell the registry, and each of its successors, which tensors are awaited: partition -> tensors."""
        with self._lock:
            self._awaited = {partition: "\n".join(tensors) for partition, tensors in awaited.items()}
            self._told = False
            self._keep(ANSWER)

    def leave(self) -> None:
        """Give the portion back, so that nobody is sent here any more. A registry that is gone is no trouble."""
        self._over.set()
        with self._lock:
            try:
                self._ask(Message("leave", {"epoch": self.epoch}), BEAT)
            except WireError as error:
                log.info("the registry was not told of the end of epoch %d: %s", self.epoch, error)

    def close(self) -> None:
        """Send no more heartbeats. Idempotent."""
        self._over.set()
        self._pool.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _first(self, claim: int | None, until: float, stop: Stop) -> tuple[int, int, float]:
        while True:
            try:
                return self._register({} if claim is None else {"server": claim}, ANSWER)
            except NoPortion:
                if time.monotonic() > until or stop.wait(RETRY):
                    raise

    def _register(self, known: Mapping[str, int], timeout: float) -> tuple[int, int, float]:
        fields = self._ask(Message("register", {**self._addresses, **known}), timeout).fields
        return int(fields["server"]), int(fields["epoch"]), float(fields["ttl"])

    def _report(self, timeout: float) -> None:
        for partition, tensors in self._awaited.items():
            self._ask(Message("report", {"epoch": self.epoch, "partition": partition, "tensors": tensors}), timeout)
        self._told = True

    def _beat(self, interval: float) -> None:
        due = time.monotonic() + interval
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - interval) + interval
            try:
                with self._lock:
                    if not self._over.is_set():
                        self._keep(self._answer)
            except NoPortion as error:
                self._lost(error)
                return
            except WireError as error:
                log.warning("the registry at %s does not answer; it is asked again: %s", self._registry, error)

    def _keep(self, timeout: float) -> None:
        """Renew the lease; where the registry does not know it, take the portion anew, and report again."""
        try:
            self._ask(Message("renew", {"epoch": self.epoch}), timeout)
        except StaleEpoch:
            self._told = False
            _, self.epoch, _ = self._register({"server": self.server, "epoch": self.epoch}, timeout)
        if not self._told:
            self._report(timeout)

    def _ask(self, question: Message, timeout: float) -> Message:
        return self._pool.call(self._registry, question, timeout)[0]
