"""A peer that breaks the rules of a protocol can end its own connection, and do nothing else to a server."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import TypeVar

import grpc
import numpy as np
import psutil
import pytest
from rpyc.core import brine

import transports
from tests.transports.conftest import HOST, Case, assert_hung_up, dialled, peers_that_say
from transports import Message, Server, frame_codec, grpc_stream, protobuf_codec
from transports.base import raise_error
from transports.errors import MessageTooLarge, ResourceExhausted, WireError
from transports.grpc_server import CHUNKED, METHODS, READY, threads
from transports.limits import ENVELOPE, NAME, PARTS, TEXT
from transports.plain_sockets import Tcp
from transports.rpyc_transport import RpycStock

Result = TypeVar("Result")
RPYC = [name for name in transports.NAMES if "rpyc" in transports.kind(name).libraries]
FRAMES = [name for name in transports.NAMES if issubclass(transports.kind(name), Tcp)]
CONNECTIONS, SECONDS = 150, 4.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def echo(message: Message) -> Message:
    return message


@pytest.fixture(params=[name for name in transports.NAMES if transports.kind(name).addressing != "in-process"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    made = Case(request.param)
    with made.stack:
        yield made


def garbage(chance: random.Random) -> bytes:
    """Bytes that begin like a message of some protocol and go on at random."""
    noise = chance.randbytes(chance.choice([0, 1, 9, 70, 900]))
    packet = b"\x01\x12\x50" + noise
    return chance.choice(
        [
            noise,
            struct.pack("!LB", len(noise), chance.randrange(4)) + noise + b"\n",
            struct.pack("!LB", len(packet), 0) + packet + b"\n",
            struct.pack("!LB", 2**32 - 1, 0) + noise,
            frame_codec.HEAD.pack(frame_codec.MAGIC, len(noise), 0) + noise,
            frame_codec.HEAD.pack(frame_codec.MAGIC, chance.randrange(2**32), chance.randrange(2**64)) + noise,
            PREFACE + noise,
            PREFACE + struct.pack("!BHBBL", 0, len(noise), chance.randrange(10), chance.randrange(256), 1) + noise,
            b"\x16\x03\x01\x00\x05" + noise,
            b"POST /v1/json HTTP/1.1\r\n" + noise,
            b"POST /v1/json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(noise) + noise,
            b"POST /v1/json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + noise,
        ]
    )


def assert_survives(case: Case, server: Server, dial: Callable[[], socket.socket], options: dict[str, str]) -> None:
    known, ping, chance = case.connect(server.address, **options), Message("ping"), random.Random(1)
    end = time.monotonic() + SECONDS
    for _ in range(CONNECTIONS):
        if time.monotonic() > end:
            break
        with suppress(OSError), dial() as peer:
            peer.sendall(garbage(chance))
    assert known.call(ping, 5) == ping
    assert case.connect(server.address, **options).call(ping, 5) == ping


def test_garbage_never_stops_a_server(case: Case) -> None:
    server = case.serve(echo)
    assert_survives(case, server, lambda: dialled(case.kind, server.address), {})


@pytest.fixture
def tls_case(case: Case) -> Case:
    if case.kind.secure != "tls":
        pytest.skip(f"{case.kind.title} has no TLS")
    return case


def test_garbage_never_stops_a_server_that_awaits_tls(tls_case: Case, tls: dict[str, str]) -> None:
    case = tls_case
    server = case.serve(echo, **tls)
    assert_survives(case, server, lambda: socket.create_connection(server.address, 5), tls)


def test_garbage_under_tls_never_stops_a_server(tls_case: Case, tls: dict[str, str]) -> None:
    case = tls_case
    server = case.serve(echo, **tls)
    context = ssl.create_default_context(cafile=tls["tls_ca"])
    context.load_cert_chain(tls["tls_cert"], tls["tls_key"])
    context.set_alpn_protocols(["h2"])

    def dial() -> socket.socket:
        return context.wrap_socket(socket.create_connection(server.address, 5), server_hostname=HOST)

    assert_survives(case, server, dial, tls)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("said", [b"", b"\x00", PREFACE[:5]], ids=["nothing", "a byte", "a word"])
def test_a_peer_that_stalls_before_its_first_message_is_dropped(
    case: Case, tls: dict[str, str], ping: Message, secure: bool, said: bytes
) -> None:
    if secure and case.kind.secure != "tls":
        pytest.skip(f"{case.kind.title} has no TLS")
    options = tls if secure else {}
    patient, hasty = (case.serve(echo, stall=seconds, **options) for seconds in (60, 0.2))
    with ExitStack() as stack:
        peers_that_say(said, case.kind, patient, stack)
        assert case.connect(patient.address, **options).call(ping, 5) == ping
        assert_hung_up(peers_that_say(said, case.kind, hasty, stack))


HALVES = {name: struct.pack("!LB", 1000, 0) + b"half" for name in RPYC} | {
    name: frame_codec.HEAD.pack(frame_codec.MAGIC, 1000, 1000) + b"half" for name in FRAMES
}


@pytest.mark.parametrize("name", HALVES)
def test_a_peer_that_stalls_inside_a_frame_is_dropped(name: str, ping: Message) -> None:
    case, said = Case(name, "raw"), HALVES[name]
    with case.stack, ExitStack() as stack:
        patient, hasty = (case.serve(echo, workers=1, stall=seconds) for seconds in (60, 0.2))
        peers_that_say(said, case.kind, patient, stack)
        assert case.connect(patient.address).call(ping, 5) == ping
        assert_hung_up(peers_that_say(said, case.kind, hasty, stack))


@pytest.mark.parametrize("path", [*METHODS.values(), *CHUNKED.values(), READY])
def test_calls_without_a_message_keep_no_thread(path: str, ping: Message) -> None:
    """Twice as many calls as there are threads; every one is cancelled or refused, and then other calls are served."""
    case, silence = Case("grpc", "raw"), threading.Event()
    with case.stack, ExitStack() as stack:
        server = case.serve(echo, workers=1, stall=0.5)
        channel = stack.enter_context(grpc.insecure_channel(str(server.address)))
        stack.callback(silence.set)
        call = channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        held = [call(_after(silence)) for _ in range(2 * threads(1))]
        assert {one.code() for one in held} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        for _ in range(20):
            assert eventually(lambda: case.connect(server.address).call(ping, 5)) == ping


def _after(silence: threading.Event) -> Iterator[bytes]:
    silence.wait(120)
    yield b""


def test_readers_that_stop_keep_no_thread_of_grpc(ping: Message) -> None:
    big = np.zeros(64 * 2**20, np.uint8)
    case = Case("grpc", "raw", "stream")
    with case.stack:
        server = case.serve(lambda message: Message("big", {}, {"x": big}) if message.fields else message, stall=0.5)
        with grpc.insecure_channel(str(server.address)) as channel:
            call = channel.stream_stream(CHUNKED["raw"], request_serializer=None, response_deserializer=None)
            request = protobuf_codec.write(Message("x", {"big": True}))
            held = [call(grpc_stream.chunks(request, 2**20)) for _ in range(2 * threads(4))]
            assert eventually(lambda: [case.connect(server.address).call(ping, 5) for _ in range(20)]) == [ping] * 20
            del held


LENGTHS = {name: struct.pack("!LB", 200 * 2**20, 0) for name in RPYC} | {
    name: frame_codec.HEAD.pack(frame_codec.MAGIC, 10, 200 * 2**20) for name in FRAMES
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_takes_no_memory_before_its_bytes_have_come(name: str, ping: Message) -> None:
    case = Case(name, "raw")
    with case.stack, ExitStack() as stack:
        server = case.serve(echo)
        before = psutil.Process().memory_info().rss
        for _ in range(8):
            peer = stack.enter_context(dialled(case.kind, server.address))
            peer.sendall(LENGTHS[name] + bytes(1000))
        assert case.connect(server.address).call(ping, 5) == ping
        assert psutil.Process().memory_info().rss - before < 200 * 2**20


WORDY = {
    "fields": Message("x", {str(number): 1 for number in range(PARTS + 1)}),
    "tensors": Message("x", {}, {str(number): np.zeros(0) for number in range(PARTS + 1)}),
    "characters in one name": Message("x", {}, {"n" * (NAME + 1): np.zeros(1)}),
    "characters of names and text": Message("x", {"text": "t" * TEXT}),
}


@pytest.mark.parametrize("what", WORDY)
def test_too_many_names_are_refused_in_requests_and_answers(any_transport: Case, what: str) -> None:
    server = any_transport.serve(lambda message: WORDY[what] if message.method == "answer" else message)
    connection = any_transport.connect(server.address)
    for message in (WORDY[what], Message("answer")):
        with pytest.raises(MessageTooLarge, match=rf"'x' has \d+ {what}, above the limit of \d+"):
            connection.call(message, 5)
    assert connection.call(Message("x"), 5) == Message("x")


@pytest.mark.parametrize("path", [METHODS["raw"], METHODS["tensorproto"]])
def test_a_swarm_of_small_parts_is_refused_before_protobuf_sees_it(path: str, ping: Message) -> None:
    case = Case("grpc", "raw")
    with case.stack:
        server = case.serve(echo)
        with grpc.insecure_channel(str(server.address)) as channel:
            call = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            answer = call(b"\x1a\x00" * 2**20, timeout=10)  # a million empty tensors
        with pytest.raises(MessageTooLarge, match=f"{PARTS + 1} tensors or more, above the limit of {PARTS}"):
            raise_error(protobuf_codec.read(answer))
        assert case.connect(server.address).call(ping, 5) == ping


@pytest.mark.parametrize("small", [b"\x12\x00", b"\x38\x01", b"\x1a\x80\x80\x40" + b"\x0a\x00" * 2**19])
def test_a_swarm_of_small_fields_is_refused(small: bytes) -> None:
    with pytest.raises(MessageTooLarge, match=f"above the limit of {ENVELOPE} bytes"):
        protobuf_codec.read(small * 2**19 if len(small) < 9 else small)


@pytest.mark.parametrize("kind", [transports.load(name) for name in RPYC])
def test_a_swarm_of_small_values_is_refused_before_brine_sees_it(kind: type[RpycStock]) -> None:
    swarm = brine.TAG_TUP_L4 + struct.pack("!L", 2**21) + brine.TAG_NONE * 2**21
    with kind().serve(echo, HOST, 0, 2) as server, socket.create_connection(server.address, 5) as sock:
        channel = kind().channel(sock)
        for _ in range(2):  # the connection stays usable
            channel.send(swarm)
            with pytest.raises(MessageTooLarge, match="values or more, above the limit of"):
                channel.recv()
        channel.close()


def eventually(action: Callable[[], Result]) -> Result:
    """Repeat `action` for up to half a minute until it raises no `WireError`, and return its result."""
    end = time.monotonic() + 30
    while True:
        try:
            return action()
        except WireError:
            if time.monotonic() > end:
                raise
            threading.Event().wait(0.02)


def test_a_full_server_refuses_calls_at_once(ping: Message) -> None:
    """A call that finds no thread is refused at once."""
    case, silence = Case("grpc", "raw"), threading.Event()
    with case.stack:
        server = case.serve(echo, workers=1)
        with grpc.insecure_channel(str(server.address)) as channel:
            call = channel.stream_stream(CHUNKED["raw"], request_serializer=None, response_deserializer=None)
            held = [call(_after(silence)) for _ in range(2 * threads(1))]
            assert held[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            connection = case.connect(server.address)
            with pytest.raises(ResourceExhausted):
                connection.call(ping, 5)
            silence.set()
        assert eventually(lambda: case.connect(server.address).call(ping, 5)) == ping
