"""The options that only ZeroMQ has: the key files of CURVE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transports.errors import UsageError
from transports.limits import Limits

CURVE = ("curve_secret", "curve_server", "curve_clients")


@dataclass(frozen=True)
class ZmqOptions(Limits):
    """The options of ZeroMQ: all three files or none, in the form that `zmq.auth.create_certificates` writes."""

    curve_secret: str = ""
    """File of this end's key pair (`NAME.key_secret`). With all three options, both ends authenticate (CURVE)."""
    curve_server: str = ""
    """File of the public key that every server must have (`NAME.key`)."""
    curve_clients: str = ""
    """Folder of the public keys of the clients that a server accepts (`*.key`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [name for name in CURVE if not getattr(self, name)]
        if 0 < len(missing) < len(CURVE):
            raise UsageError(f"{' and '.join(missing)} missing: CURVE takes {', '.join(CURVE)}, all three or none")

    @property
    def protected(self) -> bool:
        return bool(self.curve_secret)


@dataclass(frozen=True)
class Curve:
    """The keys of this end, the servers' public key, and the folder of the clients' public keys."""

    public: bytes
    secret: bytes
    server: bytes
    clients: str


def load(options: ZmqOptions) -> Curve:
    """The keys in the CURVE files of `options`. Raises `UsageError`."""
    import zmq
    from zmq.auth import load_certificate, load_certificates

    if not zmq.has("curve"):
        raise UsageError("curve_secret: this build of pyzmq has no CURVE; leave the CURVE files out")
    keys = {}
    for name in ("curve_secret", "curve_server"):
        path = getattr(options, name)
        try:
            keys[name] = load_certificate(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{name}: {path} is no key file of zmq.auth.create_certificates: {error}") from None
    public, secret = keys["curve_secret"]
    if secret is None:
        raise UsageError(f"curve_secret: {options.curve_secret} holds no secret key; give the NAME.key_secret file")
    if not Path(options.curve_clients).is_dir() or not load_certificates(options.curve_clients):
        raise UsageError(f"curve_clients: {options.curve_clients} is no folder with public keys (*.key)")
    return Curve(public, secret, keys["curve_server"][0], options.curve_clients)
