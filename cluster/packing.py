"""Packs the tensors of a request's messages as its route says, and counts the seconds and bytes of packing.

Rules:
  - A route with the wire `none` costs one comparison.
  - A message that crosses none of the emulated links of its route is not packed (`near`), and neither is its answer:
    the field `NEAR` says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from cluster.request import NO_STATS, RequestStats, Route
from transports import packing
from transports.base import Array, Message, Scalar, Transport, payload
from transports.errors import MalformedMessage, UsageError
from transports.packing import messages
from transports.packing.base import Packer
from transports.spans import RECORDER, Context

Tensors = Mapping[str, Array]
NEAR = "near"


def pack(
    tensors: Tensors,
    route: Route,
    fields: dict[str, Scalar],
    *,
    near: bool = False,
    answer: bool = False,
    trace: Context | None = None,
) -> tuple[Tensors, RequestStats]:
    """`tensors` as they cross the wire, and the statistics of packing. Adds their description to `fields`. `answer`:
    whether a server returns the tensors to its caller. `trace`: the context for a span of the packing.

    Raises `MalformedMessage` for a tensor that the packer cannot hold.
    """
    if near:
        fields[NEAR] = True
        return tensors, NO_STATS
    packer = _packer(route)
    if not tensors or (answer and not packer.answers):
        return tensors, NO_STATS
    began = time.perf_counter()
    packed = messages.pack(tensors, packer, fields)
    ended = time.perf_counter()
    if trace is not None:
        RECORDER.add(trace, "encode", began, ended, what="pack")
    return packed, RequestStats(pack=ended - began, raw=payload(tensors), packed=payload(packed))


def unpack(
    message: Message, route: Route, transports: Mapping[str, Transport], trace: Context | None = None
) -> tuple[Message, RequestStats]:
    """`message` with unpacked tensors, and the statistics of unpacking. `trace`: the context for a span of it.

    Raises `MalformedMessage`, and `MessageTooLarge` above the limit of the route's transport.
    """
    if route.wire == packing.OFF:
        return message, NO_STATS
    packer, transport = _packer(route), transports.get(route.transport)
    if messages.FIELD not in message.fields:
        return message, NO_STATS
    if transport is None:
        raise MalformedMessage(f"no transport {route.transport!r} in this process")
    began = time.perf_counter()
    unpacked = messages.unpack(message, packer, transport.options.max_message)
    ended = time.perf_counter()
    if trace is not None:
        RECORDER.add(trace, "decode", began, ended, what="unpack")
    return unpacked, RequestStats(unpack=ended - began)


def pack_answer(answer: Message, route: Route, request: Message, trace: Context | None = None) -> Message:
    """A server's `answer` to `request`, with packed tensors; its statistics include those of packing."""
    if route.wire == packing.OFF or NEAR in request.fields:
        return answer
    fields = dict(answer.fields)
    tensors, stats = pack(answer.tensors, route, fields, answer=True, trace=trace)
    return Message(answer.method, fields | (RequestStats.of(answer) + stats).fields(), tensors)


def _packer(route: Route) -> Packer:
    """The packer of `route`. Raises `MalformedMessage` if the wire is unknown, or this process lacks its library."""
    try:
        packer = packing.load(route.wire)
    except UsageError as error:
        raise MalformedMessage(f"this process cannot unpack: {error}") from None
    assert packer is not None
    return packer
