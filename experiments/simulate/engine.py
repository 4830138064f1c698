"""Runs requests through a system: the steps of each process, their order, and the events that they wait for.

A process handles one message at a time (its interpreter's lock), executes stages in its slots, and competes for the
cores of its host with every other process there. The order of the steps is that of `cluster.flows`:

`nested`    a server sends further messages inside the call that it is answering, and keeps a worker meanwhile
`hub`       the client sends every message, one after the other
`forward`   a server answers at once, executes later, and has one sender for each destination
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterator, Mapping

import numpy as np
import simpy

from cluster.node import WAITING, WAITING_FOR_ADDRESS
from experiments.simulate.resources import Cores, Slots, Wire, least_busy
from experiments.simulate.state import Process, Refused, Request, Trace
from experiments.simulate.system import CLIENT, Call, Server, System, Work
from experiments.spec.load import GAPS, Load

Steps = Generator[simpy.Event, None, None]
Clients = Load | int
"""An open-loop load, or the number of clients of a closed loop."""
Arrivals = tuple[float, ...]
"""The seconds before each arrival of an open loop."""


def simulate(system: System, clients: Clients | Arrivals, requests: int, seed: int, lead: int = 0) -> Trace:
    """Run `requests` through `system`, which is empty at the begin. The same arguments give the same trace."""
    # Nested calls are a stack of generators, two for each call.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 4 * len(system.visits)))
    return _Run(system, clients, requests, seed, lead).trace()


def _replicas(place: int, server: Server) -> Iterator[tuple[str, str]]:
    """The name and the host of each process of a server."""
    for copy, host in enumerate(server.hosts):
        yield f"server-{place}" + (f".{copy}" if len(server.hosts) > 1 else ""), host


class _Run:
    """One simulation: its resources, its clients, and the steps of each request."""

    def __init__(self, system: System, clients: Clients | Arrivals, requests: int, seed: int, lead: int) -> None:
        self.env = env = simpy.Environment()
        self.system, self.clients, self.lead, self.seed = system, clients, lead, seed
        self.rows = system.draws.draw(np.random.default_rng(seed), requests)
        self.starts, self.seconds = np.zeros(requests), np.zeros(requests)
        self.missed = np.zeros(requests, dtype=np.bool_)
        self.hosts = {
            name: Cores(env, count, system.contention, f"{name} {seed}") for name, count in system.hosts.items()
        }
        self.wires = {ends: Wire(env, link, seed) for ends, link in system.links.items()}
        self.client = self._process(CLIENT, system.client, 1, 0)
        self.servers = [
            [self._process(name, host, server.slots, server.workers) for name, host in _replicas(place, server)]
            for place, server in enumerate(system.servers)
        ]
        self.threads = Slots(env, system.threads)
        self.results = sum(visit.result is not None for visit in system.visits)
        self.awaited = {index for visit in system.visits for index in visit.after}
        self.infer: Callable[[Request], Steps] = self._forward if system.flow == "forward" else self._call_roots
        self.inside = Slots(env, len(self.rows))
        self.first: Mapping[str, float] = {}
        self.last: Mapping[str, float] = {}
        self.window = [0.0, 0.0]

    def trace(self) -> Trace:
        if isinstance(self.clients, int):
            numbers = iter(range(len(self.rows)))
            for _ in range(self.clients):
                self.env.process(self._loop(numbers))
        else:
            self.env.process(self._arrivals(self.clients))
        self.env.run()
        lasted = self.window[1] - self.window[0]
        used = {
            name: (self.last.get(name, 0.0) - self.first.get(name, 0.0), lasted * what.capacity)
            for name, what in self._resources().items()  # a sender is created for its first message
        }
        whole = {name: what.busy() for name, what in self._resources().items()}
        return Trace(self.starts, self.seconds, self.missed, self.lead, used, whole, self.inside.busy())

    def _process(self, name: str, host: str, slots: int, workers: int) -> Process:
        cores = [self.hosts[used] for used in self.system.shares.get(host, (host,))]
        return Process(name, host, cores, Slots(self.env), Slots(self.env, slots), workers)

    def _resources(self) -> dict[str, Cores | Slots | Wire]:
        found: dict[str, Cores | Slots | Wire] = {f"cores of {name}": cores for name, cores in self.hosts.items()}
        found |= {f"link {source}->{target}": wire for (source, target), wire in self.wires.items()}
        for process in (self.client, *(each for replicas in self.servers for each in replicas)):
            found[f"messages of {process.name}"] = process.interpreter
            if process is not self.client:
                found[f"stages of {process.name}"] = process.slots
            for target, sender in process.senders.items():
                found[f"sender {process.name}->{target}"] = sender
        return found

    def _snapshot(self) -> dict[str, float]:
        return {name: what.busy() for name, what in self._resources().items()}

    # Clients

    def _arrivals(self, gaps: Load | Arrivals) -> Steps:
        each = self._drawn(gaps) if isinstance(gaps, Load) else gaps
        for number, gap in zip(range(len(self.rows)), each, strict=False):
            yield self.env.timeout(gap)
            self.env.process(self._open(number))

    def _drawn(self, load: Load) -> Iterator[float]:
        rng = random.Random(f"{load} {self.seed}")
        while True:
            yield GAPS[load.kind](rng, load.rate)

    def _open(self, number: int) -> Steps:
        request = self._begin(number)
        if (wait := self.threads.acquire()) is not None:
            yield wait
        yield from self._request(request)
        self.threads.release()

    def _loop(self, numbers: Iterator[int]) -> Steps:
        for number in numbers:
            yield from self._request(self._begin(number))

    def _begin(self, number: int) -> Request:
        now = self.env.now
        self.starts[number] = now
        self.inside.acquire()
        if number == self.lead:
            self.first, self.window[0] = self._snapshot(), now
        if number == len(self.rows) - 1:
            self.last, self.window[1] = self._snapshot(), now
        arrived = {index: self.env.event() for index in self.awaited}
        return Request(number, now, self.rows[number].tolist(), self.env.event(), arrived, self.results)

    def _request(self, request: Request) -> Steps:
        try:
            self._check_time(request)
            yield from self.infer(request)
        except Refused:
            request.refused = True
        took = self.env.now - request.intended
        self.inside.release()
        self.seconds[request.number] = took
        self.missed[request.number] = request.refused or took > self.system.timeout
        if self.system.between:
            yield from self._work(self.client, request, self.system.between)

    # Flows

    def _call_roots(self, request: Request) -> Steps:
        for index in self.system.roots:
            yield from self._call(request, self.client, index)

    def _call(self, request: Request, caller: Process, index: int) -> Steps:
        """A call that is answered once the server and, in `nested`, all servers behind it have computed."""
        visit = self.system.visits[index]
        server, call = self._chosen(request, index), visit.call
        yield from self._message(request, caller, server, call.send, call.receive, call.there)
        if server.calls >= server.workers:
            raise Refused
        server.calls += 1
        try:
            yield from self._compute(request, server, visit.compute)
            for following in visit.sends:
                yield from self._call(request, server, following)
        finally:
            server.calls -= 1
        yield from self._message(request, server, caller, call.reply, call.accept, call.back)

    def _forward(self, request: Request) -> Steps:
        for index in self.system.roots:
            yield from self._post(request, self.client, index)
        yield request.done
        if request.refused:
            raise Refused

    def _post(self, request: Request, caller: Process, index: int) -> Steps:
        """A message that is acknowledged at once."""
        server, call = self._chosen(request, index), self.system.visits[index].call
        yield from self._message(request, caller, server, call.send, call.receive, call.there)
        if server.calls >= WAITING:
            raise Refused
        server.calls += 1
        self.env.process(self._deferred(request, server, index))
        yield from self._message(request, server, caller, call.reply, call.accept, call.back)

    def _deferred(self, request: Request, server: Process, index: int) -> Steps:
        """What a server does after it has acknowledged a message."""
        visit = self.system.visits[index]
        try:
            if index in request.arrived:
                request.arrived[index].succeed()
            for earlier in visit.after:
                yield request.arrived[earlier]
            yield from self._compute(request, server, visit.compute)
            for following in visit.sends:
                target = self._chosen(request, following)
                yield from self._in_turn(server, target, self._post(request, server, following))
            if visit.result:
                yield from self._in_turn(server, self.client, self._result(request, server, visit.result))
        except Refused:
            request.refused = True
            if not request.done.triggered:
                request.done.succeed()
        finally:
            server.calls -= 1

    def _in_turn(self, server: Process, target: Process, steps: Steps) -> Steps:
        """Run `steps` by the only sender to `target`."""
        sender = server.senders.setdefault(target.name, Slots(self.env))
        if len(sender.waiting) >= WAITING_FOR_ADDRESS:
            raise Refused
        if (wait := sender.acquire()) is not None:
            yield wait
        try:
            yield from steps
        finally:
            sender.release()

    def _result(self, request: Request, server: Process, call: Call) -> Steps:
        yield from self._message(request, server, self.client, call.send, call.receive, call.there)
        request.results -= 1
        if not request.results and not request.done.triggered:
            request.done.succeed()
        yield from self._message(request, self.client, server, call.reply, call.accept, call.back)

    # Steps

    def _chosen(self, request: Request, index: int) -> Process:
        """The replica whose turn it is: the same one in every portion with as many replicas."""
        replicas = self.servers[self.system.visits[index].server]
        return replicas[request.number % len(replicas)]

    def _check_time(self, request: Request) -> None:
        if self.env.now - request.intended > self.system.timeout:
            raise Refused

    def _message(
        self, request: Request, source: Process, target: Process, sent: Work, received: Work, nbytes: int
    ) -> Steps:
        yield from self._work(source, request, sent)
        if (wire := self.wires.get((source.host, target.host))) is not None:
            yield wire.deliver(nbytes)
        yield from self._work(target, request, received)

    def _work(self, process: Process, request: Request, work: Work) -> Steps:
        """A step that holds the interpreter of its process while it keeps a core busy."""
        seconds = request.row[work.column]
        if idle := seconds * (1 - work.cores):
            yield self.env.timeout(idle)
        if busy := seconds * work.cores:
            if (wait := process.interpreter.acquire()) is not None:
                yield wait
            yield least_busy(process.cores).work(busy, 1.0)
            process.interpreter.release()

    def _compute(self, request: Request, server: Process, work: Work | None) -> Steps:
        self._check_time(request)
        if work is None or not (seconds := request.row[work.column]):
            return
        if (wait := server.slots.acquire()) is not None:
            yield wait
        try:
            self._check_time(request)
            yield least_busy(server.cores).work(seconds, work.cores)
        finally:
            server.slots.release()
