"""Mutual TLS, and the rule that no process listens beyond this machine without it.

Both ends have a certificate signed by the same authority. A client also checks that the server's certificate names the
host (or IP address) that it connected to; a server accepts any client whose certificate the authority signed. TLS 1.2
or newer.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from transports.base import log
from transports.errors import UsageError
from transports.limits import TLS_FILES, Limits
from transports.sockets import DeadlineSocket, TlsSocket, deadline_socket


@dataclass(frozen=True)
class Tls:
    """This end's certificate and key, and the authority that it trusts: as PEM for gRPC, as contexts for sockets."""

    cert: bytes
    key: bytes
    ca: bytes
    server: ssl.SSLContext
    client: ssl.SSLContext


def load(options: Limits) -> Tls | None:
    """The contents of the TLS files in `options`; None if it names no files. Raises `UsageError` for unusable files."""
    if not options.tls:
        return None
    cert, key, ca = (_read(name, getattr(options, name)) for name in TLS_FILES)
    try:
        return Tls(cert, key, ca, _server(options), _client(options))
    except (OSError, ValueError) as error:
        files = ", ".join(f"{name} {getattr(options, name)}" for name in TLS_FILES)
        raise UsageError(f"{files}: not a certificate, its unencrypted key and an authority in PEM: {error}") from None


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot read {path}: {error.strerror or type(error).__name__}") from None


def accepted(sock: socket.socket, own: Tls | None) -> DeadlineSocket:
    """A server's socket for the accepted `sock`, which it takes over. `greet` does the TLS handshake."""
    if own is not None:
        sock = own.server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    return deadline_socket(sock)


def dialled(sock: socket.socket, host: str, own: Tls | None) -> DeadlineSocket:
    """A client's socket for `sock`, which it takes over and which is connected to `host`; `greet` as in `accepted`."""
    if own is not None:
        sock = own.client.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    return deadline_socket(sock)


def _server(options: Limits) -> ssl.SSLContext:
    context = _filled(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.tls_ca), options)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # a ticket would make a client's socket readable without an answer
    return context


def _client(options: Limits) -> ssl.SSLContext:
    return _filled(ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.tls_ca), options)


def _filled(context: ssl.SSLContext, options: Limits) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(
        options.tls_cert, options.tls_key, password=lambda: b""
    )  # without a password, OpenSSL would prompt at the terminal
    context.sslsocket_class = TlsSocket
    return context


def check_host(host: str, options: Limits, insecure: bool = False) -> str:
    """Check that it is safe to listen at `host`; returns the warning that was logged, or "".

    Raises `UsageError` for an address that other machines can reach without TLS, unless `insecure`, and for a name that
    is no address of this machine.
    """
    if options.protected or _is_loopback(host):
        return ""
    risk = f"{host or 'every address'} can be reached from other machines, and without TLS anyone there can call"
    if not insecure:
        raise UsageError(f"{risk}: give {', '.join(TLS_FILES)}, listen at 127.0.0.1, or allow it with insecure")
    log.warning("%s", risk)
    return risk


def _is_loopback(host: str) -> bool:
    if not host:  # an empty host binds every address
        return False
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise UsageError(f"host {host!r} is no address of this machine: {error}") from None
    return all(ipaddress.ip_address(address).is_loopback for address in found)
