"""The inputs that a node drops at a deadline, and the messages that it refuses."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

import transports
from cluster.dispatcher import Dispatcher
from cluster.errors import NotAwaited
from cluster.execution import Shard
from cluster.node import Node
from cluster.partition import Partition
from cluster.request import Request, RequestStats, Route
from cluster.result_receiver import PendingResult, ResultReceiver
from tests.cluster.plans import chain, fork, placed
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import ConnectError, MalformedMessage
from transports.serving import answer

JOIN = replace(placed(fork(), [1, 0, 1, 0]), name="join")
NEAR = replace(placed(chain(1), [0]), name="near")
ROW = replace(placed(chain(2), [0, 0]), name="row")
TENSOR = np.ones((1, 2), np.float32)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with the stages `b` and `join` of `JOIN`, the stage `a0` of `NEAR`, and both stages of `ROW`."""
    stages = {name: lambda inputs, _: [inputs[0]] for name in ("a0", "a1", "b", "join")}
    shards = {(partition.name, "eager"): Shard(partition, 0, stages, np.asarray) for partition in (JOIN, NEAR, ROW)}
    with contextlib.closing(Node(shards, Dispatcher({}, {}))) as made:
        yield made


def request_of(partition: Partition, name: str, remaining: float, flow: str = "hub") -> Request:
    return Request(name, Route(partition.name, "eager", "none", flow=flow), time.monotonic() + remaining)


def send(node: Node, request: Request, tensor: str) -> None:
    node.handle(Message("infer", request.fields() | {"epoch": 0}, {tensor: TENSOR}))


def test_the_inputs_of_an_incomplete_join_are_dropped_after_its_deadline(node: Node) -> None:
    send(node, request_of(JOIN, "patient", 20.0), "c")
    late = request_of(JOIN, "late", 1.0)
    send(node, late, "c")
    node.requests.enter(late)
    node.requests.add_stats(late, RequestStats(messages=1))
    node.requests.leave(late)
    assert "late" in node.requests
    time.sleep(late.remaining)
    send(node, request_of(NEAR, "other", 20.0), "x")
    assert "late" not in node.requests
    assert "patient" in node.requests
    assert len(node.requests) == 1


def test_a_tensor_that_the_server_makes_itself_is_refused(node: Node) -> None:
    """Without local calls it arrives in a message, and is awaited."""
    for partition, tensor in ((ROW, "a0"), (JOIN, "b")):
        with pytest.raises(NotAwaited, match=f"no stage on server 0 awaits tensor '{tensor}'"):
            send(node, request_of(partition, "forged", 20.0), tensor)
        request = request_of(partition, "all over the wire", 20.0)
        send(node, structs.replace(request, route=structs.replace(request.route, local_calls=False)), tensor)


@pytest.mark.parametrize(
    ("remaining", "text"),
    [
        *((value, "these fields describe no request") for value in (math.nan, math.inf, -math.inf)),
        (1e300, "a request has 1e+300 seconds left"),
    ],
)
def test_a_request_without_a_deadline_is_refused(node: Node, remaining: float, text: str) -> None:
    with pytest.raises(MalformedMessage, match=re.escape(text)):
        send(node, request_of(JOIN, "endless", remaining), "c")
    assert not len(node.requests)


def _route(**fields: str) -> str:
    return json.dumps({"partition": "near", "engine": "eager", "transport": "none", **fields})


def _request(**changed: object) -> str:
    """The field `request`, with some of its parts changed; `None` ends it before that part."""
    parts = {"id": "good", "remaining": 20.0, "turn": 0, "attempt": 0, "reply_to": "", "pins": {}} | changed
    return json.dumps(list(itertools.takewhile(lambda part: part is not None, parts.values())))


GOOD: Mapping[str, Scalar] = request_of(NEAR, "good", 20.0).fields() | {"epoch": 0}
WRONG: Mapping[str, Mapping[str, Scalar | None]] = {
    "no request": {"request": None},
    "no route": {"route": None},
    "request no JSON": {"request": "["},
    "request no array": {"request": "{}"},
    "request no text": {"request": 7},
    "id no text": {"request": _request(id=7)},
    "no remaining": {"request": _request(remaining=None)},
    "no turn": {"request": _request(turn=None)},
    "remaining no number": {"request": _request(remaining="soon")},
    "turn no number": {"request": _request(turn="first")},
    "attempt no whole number": {"request": _request(attempt=0.5)},
    "route no JSON": {"route": "{"},
    "route no object": {"route": "[1]"},
    "route without a partition": {"route": "{}"},
    "route of other types": {"route": '{"partition": 1, "engine": "eager", "transport": "none"}'},
    "pins no numbers": {"request": _request(pins={"0": "first"})},
    "pins of no portion": {"request": _request(pins={"first": 0})},
    "pins no object": {"request": _request(pins=[0])},
    "another flow": {"route": _route(flow="sideways")},
    "a flow and a newline": {"route": _route(flow="hub\n")},
    "another value of registry": {"route": _route(registry="sometimes")},
    "another value of connections": {"route": _route(connections="sometimes")},
    "another value of send": {"route": _route(send="sometimes")},
    "route no text": {"route": 7},
    "reply_to no address": {"request": _request(reply_to="nowhere")},
    "forward without reply_to": {"route": _route(flow="forward")},
}


@pytest.mark.parametrize("case", WRONG)
def test_malformed_fields_are_refused_without_a_traceback_in_the_log(
    node: Node, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {key: value for key, value in {**GOOD, **WRONG[case]}.items() if value is not None}
    with caplog.at_level(logging.DEBUG):
        reply = answer(node.handle, Message("infer", fields, {"x": TENSOR}))
    assert (reply.method, reply.fields["kind"]) == ("error", "malformed")
    assert not caplog.records
    assert answer(node.handle, Message("infer", GOOD, {"x": TENSOR})).method == "outputs"


MALFORMED = (7, "[", "{}", '["1"]', "[]", str([0] * 11), f"[{'0,' * 10}{'[' * 100_000}", "[\udcff]")


@pytest.mark.parametrize("fields", [{}, *({"stats": stats} for stats in MALFORMED)])
def test_a_result_with_malformed_statistics_is_refused(fields: Mapping[str, Scalar]) -> None:
    receiver = ResultReceiver({})
    reply = answer(receiver.handle, Message("result", {"id": "gone", **fields}, {}))
    assert reply.method == "ok"  # no client waits for it
    pending = receiver._pending["here"] = _expected()
    reply = answer(receiver.handle, Message("result", {"id": "here", **fields}, {"a0": TENSOR}))
    assert (reply.method, reply.fields["kind"]) == ("error", "malformed")
    assert not pending.found


def _expected() -> PendingResult:
    return PendingResult(request_of(NEAR, "here", 20.0), ["a0"])


@pytest.mark.parametrize("fields", [{"transport": "smoke"}, {"codec": "morse"}])
def test_a_route_that_this_process_cannot_send_over_is_refused(
    fields: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The outputs of stage `a0` would go to server 1 over that transport."""
    transport = transports.make("none")
    partition = placed(chain(2), [0, 1])
    shard = Shard(partition, 0, {"a0": lambda inputs, _: [inputs[0]]}, np.asarray)
    dispatcher = Dispatcher({"none": transport}, {"none": Address("here", 1)})
    route = {"partition": partition.name, "engine": "eager", "transport": "none", "flow": "nested", **fields}
    request = GOOD | {"route": json.dumps(route)}
    with (
        contextlib.closing(Node({(partition.name, "eager"): shard}, dispatcher)) as node,
        contextlib.closing(dispatcher),
    ):
        reply = answer(node.handle, Message("infer", request, {"x": TENSOR}))
    assert (reply.method, reply.fields["kind"]) == ("error", "malformed")
    assert not caplog.records


def test_a_closed_result_receiver_serves_no_more() -> None:
    receiver = ResultReceiver({"none": transports.make("none")})
    with receiver.expect(request_of(NEAR, "first", 20.0), ["a0"]) as pending:
        assert pending.request.reply_to
    receiver.close()
    with pytest.raises(ConnectError, match="closed"), receiver.expect(request_of(NEAR, "second", 20.0), ["a0"]):
        pass
