"""The spans of nodes: spans of deferred steps and of waiting inputs, and the message that fetches spans."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

import transports
from cluster import spans
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.errors import Draining
from cluster.execution import Shard
from cluster.flow_table import FLOW_NAMES
from cluster.flows import Steps
from cluster.leases import Leases
from cluster.node import Node
from cluster.registry import Registry
from cluster.request import Request, Route
from cluster.result_receiver import ResultReceiver
from cluster.spans import Clock, Recorded, answer, deferred, fetch
from tests.cluster.plans import fork, placed
from transports.base import Array, Message
from transports.errors import MalformedMessage
from transports.spans import RECORDER, TRACEPARENT, Context, Recorder, Span, child, context_of, span_of, trace_of

HERE = Context(f"00-{'ab' * 16}-{'cd' * 8}-01")
JOIN = placed(fork(), [0, 1, 2, 2])
"""Server 2 gets `a` for `c` and `join`, and later `b` for `join`."""
INPUT = {"x": np.ones((1, 2), np.float32)}


@pytest.fixture(autouse=True)
def nothing_recorded() -> Iterator[None]:
    RECORDER.take()
    yield
    RECORDER.take()


def recorded() -> list[Span]:
    return list(RECORDER.take().spans)


@pytest.fixture
def infer() -> Iterator[Callable[[str, Context | None], Mapping[str, Array]]]:
    """A function that sends a request through three nodes over plain sockets, by its flow and context; outputs by name.

    It returns once the nodes have done their last step, which may be after the client has received the outputs.
    """
    with contextlib.ExitStack() as stack:
        tcp = {"tcp": transports.make("tcp")}
        leases, nodes = Leases(JOIN.servers, ttl=math.inf), list[Node]()
        registry = stack.enter_context(tcp["tcp"].serve(Registry(leases).handle, "127.0.0.1", 0, 8))
        at = {"tcp": registry.address}
        for server in range(JOIN.servers):
            stages = {stage.name: lambda inputs, _: [inputs[0] + 1] for stage in JOIN.portion(server)}
            shards = {("layer", "eager"): Shard(JOIN, server, stages, np.asarray)}
            dispatcher = stack.enter_context(contextlib.closing(Dispatcher(tcp, at)))
            held: list[int] = []
            node = Node(shards, dispatcher, lambda held=held: held[0])  # type: ignore[misc]
            stack.callback(node.close)
            nodes.append(node)
            served = stack.enter_context(tcp["tcp"].serve(node.handle, "127.0.0.1", 0, 8))
            granted = leases.take({"tcp": served.address}, server)
            held.append(granted.epoch)
            leases.report(granted.epoch, "layer", list(JOIN.awaited(server)))
        dispatcher = stack.enter_context(contextlib.closing(Dispatcher(tcp, at)))
        client = Client(dispatcher, stack.enter_context(contextlib.closing(ResultReceiver(tcp))))
        route = Route("layer", "eager", "tcp")

        def send(flow: str, trace: Context | None) -> Mapping[str, Array]:
            chosen = msgspec.structs.replace(route, flow=flow)
            outputs = client.infer(JOIN, chosen, INPUT, 20.0, trace=trace).outputs
            for node in nodes:
                node.drain(20.0)
            return outputs

        yield send


@pytest.mark.parametrize("flow", FLOW_NAMES)
def test_every_hop_continues_the_trace_of_the_client(
    flow: str, infer: Callable[[str, Context | None], Mapping[str, Array]]
) -> None:
    assert list(infer(flow, HERE)) == ["join"]
    found = recorded()
    by_id = {span.id: span for span in found if span.id}
    assert {span.trace for span in found} == {trace_of(HERE)}
    assert {span.parent for span in found} <= {span_of(HERE), *by_id}
    assert sorted((span.what, span.server) for span in found if span.name == "compute") == [
        *(("a", 0), ("b", 1)),
        *(("c", 2), ("join", 2)),
    ]
    served = [span for span in found if span.name == "serve"]
    assert all(by_id[span.parent].name == "call" for span in served)
    calls = [span for span in found if span.name == "call"]
    assert len({span.id for span in calls}) == len(calls) == len(served)


@pytest.mark.parametrize("flow", FLOW_NAMES)
def test_the_input_of_a_join_waits_for_the_others(
    flow: str, infer: Callable[[str, Context | None], Mapping[str, Array]]
) -> None:
    """`join` gets `a`, or a `b` that overtakes `a`, before the rest; it waits for no stage on its own server."""
    infer(flow, HERE)
    found = recorded()
    (wait,) = (span for span in found if span.name == "wait")
    (join,) = (span for span in found if (span.name, span.what) == ("compute", "join"))
    assert (wait.what, wait.server) == ("join", 2)
    assert wait.begin < wait.end <= join.begin


@pytest.mark.parametrize("flow", FLOW_NAMES)
def test_a_request_that_is_not_traced_leaves_nothing(
    flow: str, infer: Callable[[str, Context | None], Mapping[str, Array]]
) -> None:
    assert list(infer(flow, None)) == ["join"]
    assert recorded() == []


def test_a_malformed_context_does_not_refuse_a_request() -> None:
    request = Request("one", Route("layer", "eager", "tcp"), time.monotonic() + 20)
    read = Request.of(request.fields() | {TRACEPARENT: "00-much-too-short-01"})
    assert read.trace is None
    assert Request.of(request.fields() | {TRACEPARENT: HERE}).trace == HERE


def test_each_message_of_a_traced_request_has_a_context_of_its_own() -> None:
    request = Request("one", Route("layer", "eager", "tcp"), time.monotonic() + 20, trace=HERE)
    contexts = [context_of(request.fields()) for _ in range(2)]
    assert [context and trace_of(context) for context in contexts] == [trace_of(HERE)] * 2
    assert len({HERE, *contexts}) == 3


def steps(log: list[object]) -> Steps:
    try:
        yield "first"
        log.append("worked")
        yield "second"
    except Draining as error:
        log.append(error)
        yield "notice"


def test_deferred_steps_and_their_queues_are_recorded() -> None:
    log: list[object] = []
    own = child(HERE)
    running = deferred(steps(log), HERE, own, 3)
    rejection = Draining("the queue is full")
    assert (next(running), next(running), running.throw(rejection)) == ("first", "second", "notice")
    assert next(running, "end") == "end"
    assert log == ["worked", rejection]
    *inner, work = recorded()
    assert [(span.name, span.parent, span.server) for span in inner] == [
        *(("step", span_of(own), 3), ("queue", span_of(own), 3)) * 3,
        ("step", span_of(own), 3),
    ]
    assert (work.name, work.id, work.parent) == ("work", span_of(own), span_of(HERE))
    assert [before.end <= after.begin for before, after in itertools.pairwise(inner)] == [True] * 6
    assert work.begin <= inner[0].begin
    assert inner[-1].end <= work.end


def recorder(count: int, bound: int = 10**6) -> Recorder:
    made = Recorder(bound)
    for number in range(count):
        made.add(HERE, "compute", float(number), number + 0.5, 1, f"stage-{number}")
    return made


def test_all_spans_are_fetched_however_many_there_are() -> None:
    """The arrays are read-only, as a transport delivers them."""
    made = recorder(2 * spans.MOST + 1, bound=2 * spans.MOST)
    asked: list[Message] = []

    def ask(message: Message) -> Message:
        asked.append(message)
        return answer(made, 0)

    found = fetch(ask, 1, same_clock=True)
    assert len(asked) == 2
    assert [span.what for span in found.spans] == [f"stage-{number}" for number in range(2 * spans.MOST)]
    assert (found.dropped, found.server, found.clock) == (1, 1, Clock())
    assert fetch(ask, 1, same_clock=True) == Recorded(server=1)


def test_a_busy_node_is_asked_again_but_not_for_ever() -> None:
    def ask(message: Message) -> Message:
        left.append(left.pop() - 1)
        return answer(recorder(1), max(0, left[0]))

    left = [3]
    assert len(fetch(ask, 0, same_clock=True).spans) == 3
    left = [10**6]
    assert len(fetch(ask, 0, same_clock=True).spans) == spans.SETTLING


def test_the_clock_of_another_machine_is_read_from_the_fastest_answers() -> None:
    """The node has a clock 100 s ahead, and its answers take longer than the questions."""

    def ask(message: Message) -> Message:
        reply = answer(recorder(0), 0)
        return Message(reply.method, {**reply.fields, "now": time.perf_counter() + 100}, reply.tensors)

    found = fetch(ask, 0, same_clock=False)
    assert abs(found.clock.offset - 100) <= found.clock.uncertainty


GOOD: dict[str, Any] = {"left": 0, "busy": 0, "dropped": 0, "now": 1.0}
EMPTY = np.frombuffer(msgspec.msgpack.encode([]), np.uint8)
WRONG: dict[str, tuple[dict[str, Any], dict[str, Array]]] = {
    "nothing": ({}, {}),
    "no time": ({**GOOD, "now": "late"}, {"spans": EMPTY}),
    "no count": ({**GOOD, "left": -1}, {"spans": EMPTY}),
    "no spans": (GOOD, {}),
    "no MessagePack": (GOOD, {"spans": np.array([0xC1], np.uint8)}),
    "other things": (GOOD, {"spans": np.frombuffer(msgspec.msgpack.encode([["x"]]), np.uint8)}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_answer_is_refused(case: str) -> None:
    fields, tensors = WRONG[case]
    with pytest.raises(MalformedMessage, match="a node answered 'spans'"):
        fetch(lambda _: Message("recorded", fields, tensors), 0, same_clock=True)


def test_a_node_answers_with_its_spans() -> None:
    with contextlib.closing(Node({}, Dispatcher({}, {}))) as node:
        RECORDER.add(HERE, "compute", 1.0, 2.0, 0, "body")
        found = fetch(node.handle, 0, same_clock=True)
    assert found.spans == [Span(trace_of(HERE), "", span_of(HERE), "compute", 1.0, 2.0, 0, "body")]
    assert recorded() == []
