"""Faults of servers, and of connections between them, in every flow over every transport."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from msgspec.structs import replace

from cluster.flows import FLOWS
from cluster.request import Request
from cluster.result_receiver import ResultReceiver
from tests.faults.common import DEADLINE, PATIENCE, REMOTE, at_once, failing, frozen
from tests.faults.conftest import SERVERS, Running, Work, send
from tests.faults.proxy import NONE, Fault
from tests.running import process_of
from transports.errors import ConnectError, DeadlineExceeded

pytestmark = pytest.mark.slow

WAYS = {f"{transport}, {flow}": (transport, flow) for transport, flow in itertools.product(REMOTE, FLOWS)}


@contextmanager
def stopped(running: Running, server: int) -> Iterator[None]:
    with frozen(process_of(running.launcher, running.cluster.nodes[server]).pid):
        yield


@contextmanager
def faulty(running: Running, server: int, fault: Fault) -> Iterator[None]:
    """Every connection to `server` has `fault` during the block."""
    proxies = [proxy for (number, _), proxy in running.launcher.proxies.items() if number == server]
    for proxy in proxies:
        proxy.fault = fault
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.fault = NONE


FAULTS: Mapping[str, Callable[[Running, int], AbstractContextManager[None]]] = {
    "stopped": stopped,
    "black hole": lambda running, server: faulty(running, server, Fault(end="silence")),
    "slow": lambda running, server: faulty(running, server, Fault(delay=30 * DEADLINE)),
}


@pytest.mark.parametrize("server", range(SERVERS))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_fails_in_time_and_the_next_one_is_answered(
    proxied: Running, works: Mapping[str, Work], fault: str, server: int
) -> None:
    work = works["sequential"]
    with ExitStack() as stack:
        clients = {way: stack.enter_context(proxied.client()) for way in WAYS}

        def fails(way: str) -> None:
            with failing(DeadlineExceeded, ConnectError):  # ConnectError if a node had to connect anew
                work.done_by(clients[way], *WAYS[way], timeout=DEADLINE)

        def works_again(way: str) -> None:
            work.done_by(clients[way], *WAYS[way])

        at_once(works_again, WAYS)
        with FAULTS[fault](proxied, server):
            at_once(fails, WAYS)
        at_once(works_again, WAYS)


@pytest.mark.parametrize("transport", REMOTE)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_request_that_arrives_after_its_deadline_executes_no_stage(
    proxied: Running, works: Mapping[str, Work], transport: str, flow: str
) -> None:
    work = works["sequential"]
    request = Request(uuid.uuid4().hex, work.route(transport, flow), time.monotonic() + PATIENCE)
    receiver = ResultReceiver(proxied.transports)
    with receiver.expect(request, work.partition.plan.outputs) as awaited, proxied.dispatcher() as dispatcher:
        late = replace(awaited.request, deadline=time.monotonic())

        def infer() -> None:
            assert [reply.method for reply in send(dispatcher, late, work.partition, work.inputs)] == ["accepted"]
            awaited.outputs()

        with pytest.raises(DeadlineExceeded, match="no time left for stage"):
            infer()
    receiver.close()
