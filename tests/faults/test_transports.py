"""Faults of the link between a client and a server: the right error, in time, and the next request is answered.

The client is a pool, as in a cluster, so the next request meets whatever the pool keeps after a failure.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

import transports
from tests.faults.common import DEADLINE, PATIENCE, STREAMED, WIRES, at_once, failing, frozen
from tests.faults.proxy import NONE, Fault, Proxy, bound
from tests.faults.server import echoing
from transports import Address, Message
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, WireError
from transports.pool import Pool

SMALL = Message("echo", {"n": 1}, {"x": np.arange(6, dtype=np.float32)})
LARGE = Message("echo", {}, {"x": np.random.default_rng(0).integers(0, 256, 10**6, np.uint8)})
"""Noise, which does not compress."""
HUGE = Message("echo", {}, {"x": np.zeros(2 * 10**7, np.uint8)})
"""More than the kernel buffers for a peer that does not read. Zeros, since stock RPyC would compress for seconds."""
SLOW = Message("echo", {"wait": 8 * DEADLINE})
HELD = Message("hold")
"""A message that is never answered, since nothing sends `release`."""


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
        """The number of messages that the server has begun to handle."""
        return int(self.call(Message("begun"), PATIENCE).fields["count"])


@contextmanager
def calling(wire: str, addresses: Mapping[str, Address]) -> Iterator[Caller]:
    name, options = WIRES[wire]
    with (
        Proxy(addresses[name], transports.kind(name).addressing) as proxy,
        Pool(transports.make(name, options)) as pool,
    ):
        yield Caller(pool, proxy)


@dataclass(frozen=True)
class Servers:
    """One process that echoes over every transport."""

    addresses: Mapping[str, Address]
    pid: int

    def each(self, check: Callable[[Caller], object], wires: Iterable[str] = WIRES) -> None:
        """Run `check` over all `wires`."""

        def over(wire: str) -> None:
            with calling(wire, self.addresses) as caller:
                check(caller)

        at_once(over, wires)


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
    timeout = DEADLINE if error is DeadlineExceeded else PATIENCE  # a busy machine may take long to send a message

    def check(caller: Caller) -> None:
        assert caller.works()
        caller.proxy.fault = happens
        with failing(error):
            caller.call(message, timeout)
        caller.proxy.fault = NONE
        assert caller.works(LARGE)

    servers.each(check, STREAMED if message.payload > 1000 else WIRES)


@pytest.mark.parametrize("fault", ["swallowed", "slow link", "reset", "request truncated in its head"])
def test_connecting_fails_in_time_and_the_next_one_is_answered(servers: Servers, fault: str) -> None:
    def check(caller: Caller) -> None:
        caller.proxy.fault = FAULTS[fault][1]
        with failing(ConnectError):
            caller.call(SMALL)
        caller.proxy.fault = NONE
        assert caller.works()

    servers.each(check)


def test_the_timeout_of_connect_covers_dialling_and_the_first_answer() -> None:
    """If the queue of a listener is full, the kernel dials again after a second; then the listener never answers."""

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

    at_once(check, [wire for wire in WIRES if transports.kind(WIRES[wire][0]).addressing == "host:port"])


def test_a_throttled_link_carries_all(servers: Servers) -> None:
    def check(caller: Caller) -> None:
        caller.proxy.fault = Fault(rate=2e6)
        assert caller.works(LARGE)

    servers.each(check)


@pytest.mark.parametrize("message", [SMALL, LARGE, HUGE], ids=["small", "large", "huge"])
def test_a_stopped_server(servers: Servers, message: Message) -> None:
    """Without a proxy: the part of a message that the kernel does not buffer waits at the client."""
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


def test_a_request_whose_client_has_given_up_is_not_begun(servers: Servers) -> None:
    """A stopped server finds such requests when it goes on."""
    with ExitStack() as stack:
        callers = {wire: stack.enter_context(calling(wire, servers.addresses)) for wire in WIRES}
        counter = next(iter(callers.values()))

        def give_up(wire: str) -> None:
            with failing(DeadlineExceeded):
                callers[wire].call(SMALL)

        assert all(caller.works() for caller in callers.values())
        before = counter.begun()
        with frozen(servers.pid):
            at_once(give_up)
            for caller in callers.values():
                caller.proxy.await_hang_up()
        assert all(caller.works() for caller in callers.values())  # so the earlier requests have been dropped
        assert counter.begun() - before == len(WIRES)


def test_a_killed_server_and_the_one_in_its_place() -> None:
    names = {name for name, _ in WIRES.values()}
    with ExitStack() as stack:
        found, pid = stack.enter_context(echoing(*names))
        callers = {wire: stack.enter_context(calling(wire, found)) for wire in WIRES}
        threads = stack.enter_context(ThreadPoolExecutor(len(WIRES)))
        caller = next(iter(callers.values()))
        before = caller.begun()
        calls = [threads.submit(caller.call, HELD, PATIENCE) for caller in callers.values()]
        while caller.begun() - before < len(calls):
            pass
        os.kill(pid, signal.SIGKILL)
        for call in calls:
            with failing(ConnectionLost):
                call.result()
        for caller in callers.values():
            with failing(ConnectError):
                caller.call(SMALL)
        found, _ = stack.enter_context(echoing(*names))
        for wire, caller in callers.items():
            caller.proxy.target = found[WIRES[wire][0]]
            assert caller.works()


def test_a_server_that_drains_behind_a_slow_link() -> None:
    """The answer is still in the kernel's buffers when the handler returns, and the client sends window updates."""

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


@contextmanager
def reserved(addressing: str) -> Iterator[Address]:
    """A free address at which nothing listens; a TCP port is held by a socket that does not listen."""
    if addressing != "host:port":
        sock, address = bound(addressing)
        sock.close()
        yield address
        return
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield Address(*sock.getsockname())


def test_a_server_that_starts_late() -> None:
    """Until the server starts, nothing listens at its address."""

    def check(wire: str) -> None:
        name, options = WIRES[wire]
        with Pool(transports.make(name, options)) as pool, reserved(transports.kind(name).addressing) as address:
            for _ in range(2):
                with failing(ConnectError):
                    pool.call(address, SMALL, DEADLINE)
            with echoing(name, port=address.port):
                assert pool.call(address, SMALL, PATIENCE)[0].fields == SMALL.fields

    at_once(check)
