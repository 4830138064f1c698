"""Reads from the Linux kernel how many bytes of a TCP connection its interface has carried, and when data arrived.

Other systems tell neither. Then `wire_bytes` is None, and data counts as arrived when it is read.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import suppress

INFO = struct.Struct("=8x24I4Q6I4Q2I2Q")
"""The beginning of `struct tcp_info` in linux/tcp.h, up to `tcpi_bytes_retrans`."""
RECEIVED, SEGMENTS_OUT, SEGMENTS_IN, SENT = 27, 28, 29, 40
"""The indices of `tcpi_bytes_received`, `tcpi_segs_out`, `tcpi_segs_in` and `tcpi_bytes_sent` in `INFO`."""

HEADERS = {socket.AF_INET: 20 + 32, socket.AF_INET6: 40 + 32}
"""Bytes of the headers of a segment: IP, and TCP with timestamps. The loopback interface counts no Ethernet header."""
HANDSHAKE = 2 * 8
"""Bytes by which the two SYN segments of a connection are longer than other segments, because of their TCP options."""


def wire_bytes(sock: socket.socket) -> int | None:
    """Bytes sent and received so far over the TCP connection `sock`; None if the kernel does not tell."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO.size)
    except (OSError, AttributeError):  # another system
        return None
    if len(info) < INFO.size:  # an older kernel
        return None
    fields = INFO.unpack(info)
    segments = int(fields[SEGMENTS_OUT] + fields[SEGMENTS_IN])
    headers = segments * HEADERS[socket.AddressFamily(sock.family)] + (HANDSHAKE if segments else 0)
    return int(fields[SENT] + fields[RECEIVED]) + headers


SO_TIMESTAMPNS_NEW = 64
"""The option to report the moment at which data arrived, and the type of the report. Python gives it no name."""
STAMP = struct.Struct("=qq")
"""Seconds since 1970, and nanoseconds."""
SPACE = socket.CMSG_SPACE(STAMP.size)


def stamp(sock: socket.socket) -> None:
    """Let the kernel note when data arrives at `sock`."""
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)


def receive(sock: socket.socket, size: int) -> tuple[bytes, float]:
    """Up to `size` bytes, and the moment of `time.monotonic()` at which the last of them arrived, at most now.

    The moment does not depend on how long this process waited for a processor. It may be wrong if the system's clock is
    set meanwhile. Raises `OSError`.
    """
    data, reports, _, _ = sock.recvmsg(size, SPACE)
    now = time.monotonic()
    for _, kind, report in reports:
        if kind == SO_TIMESTAMPNS_NEW and len(report) == STAMP.size:
            seconds, nanoseconds = STAMP.unpack(report)
            return data, now - max(0.0, time.time() - (seconds + nanoseconds / 1e9))
    return data, now
