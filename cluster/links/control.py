"""The process of a relay takes orders over plain sockets:

reach      host, address   -> address      the address where processes on `host` reach a server on the other host
shape      links (lines)   -> ok           sets the links of both directions; a direction without a link is not limited
repeated                   -> bytes        bytes that an interface counted a second time, since they were relayed
"""

from __future__ import annotations

from cluster.links.link import Link
from cluster.links.relay import Relay
from cluster.registry import fields_read, text
from transports.address import Address
from transports.base import Message
from transports.errors import MalformedMessage

TRANSPORT = "tcp"
"""The transport for these orders."""


class Control:
    """The message handler of a relay's process."""

    def __init__(self, relay: Relay, bind: str, advertise: str) -> None:
        self._relay = relay
        self._bind = bind
        self._advertise = advertise

    def handle(self, message: Message) -> Message:
        """Answer the messages of the protocol. Raises `MalformedMessage`."""
        with fields_read(f"{message.method!r} has"):
            match message.method:
                case "reach":
                    to = Address.parse(text(message.fields, "address"))
                    found = self._relay.reach(text(message.fields, "host"), to, self._bind)
                    return Message("reached", {"address": str(Address(self._advertise, found.port))})
                case "shape":
                    links = [Link.parse(line) for line in text(message.fields, "links").splitlines()]
                    self._relay.shape({(link.source, link.target): link for link in links})
                case "repeated":
                    return Message("bytes", {"bytes": self._relay.repeated_bytes()})
                case other:
                    raise MalformedMessage(f"a relay has no method {other!r}; valid: reach, shape, repeated")
        return Message("ok")
