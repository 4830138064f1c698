"""What befalls the link between a client and a server: the right error, in time, and the next request is answered.

A client here is a pool, as in a cluster: what it keeps of a connection that failed is what the next request meets.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

import transports
from tests.faults.common import DEADLINE, PATIENCE, WIRES, at_once, failing, frozen
from tests.faults.proxy import NONE, Fault, Proxy
from tests.faults.server import echoing
from transports import Address, Message
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, WireError
from transports.pool import Pool

SMALL = Message("echo", {"n": 1}, {"x": np.arange(6, dtype=np.float32)})
LARGE = Message("echo", {}, {"x": np.random.default_rng(0).integers(0, 256, 10**6, np.uint8)})
"""Noise, which no compression makes smaller."""
HUGE = Message("echo", {}, {"x": np.zeros(2 * 10**7, np.uint8)})
"""More than the system takes of a connection that nobody reads; of zeros, or stock RPyC would compress for seconds."""
SLOW = Message("echo", {"wait": 8 * DEADLINE})
HELD = Message("hold")
"""Has no answer: nobody says `release`."""


@dataclass(frozen=True)
class Caller:
    """Calls the echo server over one transport, through a proxy."""

    pool: Pool
    proxy: Proxy

    def call(self, message: Message, timeout: float = DEADLINE) -> Message:
        return self.pool.call(self.proxy.address, message, timeout)[0]

    def works(self, message: Message = SMALL) -> bool:
        reply = self.call(message, PATIENCE)
        return all(np.array_equal(reply.tensors[name], array) for name, array in message.tensors.items())

    def begun(self) -> int:
        """Messages that the server has begun to handle."""
        return int(self.call(Message("begun"), PATIENCE).fields["count"])


@contextmanager
def calling(wire: str, addresses: Mapping[str, Address]) -> Iterator[Caller]:
    name, options = WIRES[wire]
    with Proxy(addresses[name]) as proxy, Pool(transports.make(name, options)) as pool:
        yield Caller(pool, proxy)


@dataclass(frozen=True)
class Servers:
    """One process that echoes over every transport."""

    addresses: Mapping[str, Address]
    pid: int

    def each(self, check: Callable[[Caller], object]) -> None:
        """Do `check` over every transport."""

        def over(wire: str) -> None:
            with calling(wire, self.addresses) as caller:
                check(caller)

        at_once(over)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with echoing(*{name for name, _ in WIRES.values()}) as (addresses, pid):
        yield Servers(addresses, pid)


FAULTS: Mapping[str, tuple[Message, Fault, type[WireError]]] = {
    "slow handler": (SLOW, NONE, DeadlineExceeded),
    "slow link": (SMALL, Fault(delay=30 * DEADLINE), DeadlineExceeded),
    "swallowed": (SMALL, Fault(end="silence"), DeadlineExceeded),
    "swallowed answer": (SMALL, Fault(end="silence", way="answer"), DeadlineExceeded),
    "half a request": (LARGE, Fault(end="silence", after=500_000), DeadlineExceeded),
    "half an answer": (LARGE, Fault(end="silence", after=500_000, way="answer"), DeadlineExceeded),
    "a link too slow": (LARGE, Fault(rate=1e5), DeadlineExceeded),
    "a link far too slow": (HUGE, Fault(rate=1e4), DeadlineExceeded),
    "reset": (SMALL, Fault(end="reset"), ConnectionLost),
    "reset in a request": (LARGE, Fault(end="reset", after=500_000), ConnectionLost),
    "reset in an answer": (LARGE, Fault(end="reset", after=500_000, way="answer"), ConnectionLost),
    "request truncated in its head": (LARGE, Fault(end="close", after=3), ConnectionLost),
    "request truncated": (LARGE, Fault(end="close", after=500_000), ConnectionLost),
    "answer truncated in its head": (LARGE, Fault(end="close", after=3, way="answer"), ConnectionLost),
    "answer truncated": (LARGE, Fault(end="close", after=500_000, way="answer"), ConnectionLost),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_fails_in_time_and_the_next_one_is_answered(servers: Servers, fault: str) -> None:
    message, happens, error = FAULTS[fault]

    def check(caller: Caller) -> None:
        assert caller.works()
        caller.proxy.fault = happens
        with failing(error):
            caller.call(message)
        caller.proxy.fault = NONE
        assert caller.works(LARGE)

    servers.each(check)


@pytest.mark.parametrize("fault", ["swallowed", "slow link", "reset", "request truncated in its head"])
def test_connecting_fails_in_time_and_the_next_one_is_answered(servers: Servers, fault: str) -> None:
    def check(caller: Caller) -> None:
        caller.proxy.fault = FAULTS[fault][1]
        with failing(ConnectError):
            caller.call(SMALL)
        caller.proxy.fault = NONE
        assert caller.works()

    servers.each(check)


def test_what_connecting_has_taken_is_no_longer_there_for_the_rest() -> None:
    """The system asks a listener with a full queue again after a second; whoever listens there then says nothing."""

    def check(wire: str) -> None:
        name, options = WIRES[wire]
        with ExitStack() as stack:
            silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            address = Address(*silent.getsockname())
            stack.enter_context(socket.create_connection(address))
            made_room = threading.Timer(0.5, silent.accept)
            made_room.start()
            stack.callback(made_room.join)
            with failing(ConnectError, within=1.5):
                transports.make(name, options).connect(address, timeout=1.5)

    at_once(check)


def test_a_throttled_link_carries_all(servers: Servers) -> None:
    def check(caller: Caller) -> None:
        caller.proxy.fault = Fault(rate=2e6)
        assert caller.works(LARGE)

    servers.each(check)


@pytest.mark.parametrize("message", [SMALL, LARGE, HUGE], ids=["small", "large", "huge"])
def test_a_stopped_server(servers: Servers, message: Message) -> None:
    """Nothing is between: what the system does not take of a message waits at the client."""
    with ExitStack() as stack:
        pools = {wire: stack.enter_context(Pool(transports.make(*WIRES[wire]))) for wire in WIRES}

        def call(wire: str, message: Message, timeout: float) -> Message:
            return pools[wire].call(servers.addresses[WIRES[wire][0]], message, timeout)[0]

        def check(wire: str) -> None:
            with failing(DeadlineExceeded):
                call(wire, message, DEADLINE)

        at_once(lambda wire: call(wire, SMALL, PATIENCE))
        with frozen(servers.pid):
            at_once(check)
        at_once(lambda wire: call(wire, LARGE, PATIENCE))


def test_what_nobody_waits_for_any_more_is_not_begun(servers: Servers) -> None:
    """A stopped server finds requests before it when it goes on, whose clients have given up."""
    with ExitStack() as stack:
        model_clients = {wire: stack.enter_context(calling(wire, servers.addresses)) for wire in WIRES}

        def give_up(wire: str) -> None:
            with failing(DeadlineExceeded):
                model_clients[wire].call(SMALL)

        assert all(caller.works() for caller in model_clients.values())
        before = model_clients["grpc"].begun()
        with frozen(servers.pid):
            at_once(give_up)
            for caller in model_clients.values():
                caller.proxy.await_hang_up()
        assert all(caller.works() for caller in model_clients.values())  # and what came before that has been looked at
        assert model_clients["grpc"].begun() - before == len(WIRES)


def test_a_killed_server_and_the_one_in_its_place() -> None:
    names = {name for name, _ in WIRES.values()}
    with ExitStack() as stack:
        found, pid = stack.enter_context(echoing(*names))
        model_clients = {wire: stack.enter_context(calling(wire, found)) for wire in WIRES}
        threads = stack.enter_context(ThreadPoolExecutor())
        caller = next(iter(model_clients.values()))
        before = caller.begun()
        calls = [threads.submit(caller.call, HELD, PATIENCE) for caller in model_clients.values()]
        while caller.begun() - before < len(calls):
            pass
        os.kill(pid, signal.SIGKILL)
        for call in calls:
            with failing(ConnectionLost):
                call.result()
        for caller in model_clients.values():
            with failing(ConnectError):
                caller.call(SMALL)
        found, _ = stack.enter_context(echoing(*names))
        for wire, caller in model_clients.items():
            caller.proxy.target = found[WIRES[wire][0]]
            assert caller.works()


def test_a_server_that_drains_behind_a_slow_link() -> None:
    """The answer is still in the system's buffers when the last handler returns, and the client acknowledges parts."""

    def check(wire: str) -> None:
        name, options = WIRES[wire]
        begun = threading.Event()

        def answer(message: Message) -> Message:
            if message.method == "large":
                begun.set()
            return LARGE

        transport = transports.make(name, options)
        with transport.serve(answer, "127.0.0.1", 0, 2) as server, calling(wire, {name: server.address}) as caller:
            caller.call(SMALL, PATIENCE)
            caller.proxy.fault = Fault(rate=2e6)
            with ThreadPoolExecutor(1) as threads:
                call = threads.submit(caller.call, Message("large"), PATIENCE)
                assert begun.wait(PATIENCE)
                server.drain(PATIENCE)
                server.close()
                assert np.array_equal(call.result().tensors["x"], LARGE.tensors["x"])
                with pytest.raises(ConnectError):
                    transport.connect(server.address)

    at_once(check)


def test_a_server_that_starts_late() -> None:
    """Until then its port belongs to a socket that does not listen, and nobody else can be given it."""

    def check(wire: str) -> None:
        name, options = WIRES[wire]
        with Pool(transports.make(name, options)) as pool, socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            address = Address(*reserved.getsockname())
            for _ in range(2):
                with failing(ConnectError):
                    pool.call(address, SMALL, DEADLINE)
            with echoing(name, port=address.port):
                assert pool.call(address, SMALL, PATIENCE)[0].fields == SMALL.fields

    at_once(check)
