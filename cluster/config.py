"""The configurations of processes: one JSON document for each process, checked before the process binds a port.

    {"kind": "registry", "servers": 2, "transports": ["grpc"]}

`kind` is `registry`, `node`, `probe`, `profiler`, `relay`, `model-server`, `ray`, `tensorflow-server` or
`socket-server`. `parse` refuses unknown fields and values of a wrong type or out of range, and names the field's path.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from cluster.device import PROCESSOR, Device
from cluster.leases import LEAST_LEASE
from transports.address import Address
from transports.errors import UsageError

Threads = Annotated[int, Meta(description="TensorFlow's threads; 0: its own choice", ge=0)]
Malloc = Annotated[Literal["keep", "default"], Meta(description="keep freed memory, or return it")]


class _Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The fields that the configuration of every process has."""

    bind: Annotated[str, Meta(description="host name or address to bind", min_length=1)] = "127.0.0.1"
    advertise: Annotated[str, Meta(description="address under which others reach the process; empty: `bind`")] = ""
    cores: Annotated[tuple[int, ...], Meta(description="cores that the process may use; empty: all")] = ()
    cpu: Annotated[float, Meta(description="share of a core that the process may use; 0: no limit", ge=0.0)] = 0.0
    memory: Annotated[int, Meta(description="bytes of memory that it may use; 0: no limit", ge=0)] = 0
    device: Annotated[Device, Meta(description="`cards` that the process may use, and `tf32`; {}: the processor")] = (
        PROCESSOR
    )
    folder: Annotated[str, Meta(description="folder of its files; a launcher sets it")] = "."
    files: Annotated[
        dict[str, str], Meta(description="path below `folder` -> SHA-256; nothing else below it is loaded")
    ] = {}

    def advertised(self, port: int) -> Address:
        """The address under which others reach `port`."""
        return Address(self.advertise or self.bind, port)


class _Service(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A process that serves messages over transports."""

    transports: Annotated[
        tuple[str, ...], Meta(description="transports by name; each has its own port", min_length=1)
    ] = ("grpc",)
    port: Annotated[int, Meta(description="port of the first transport; the others take the next; 0: any", ge=0)] = 0
    workers: Annotated[int, Meta(description="calls handled at a time on each transport", ge=1)] = 16
    options: Annotated[dict[str, str], Meta(description="options of transports: NAME.KEY -> value")] = {}
    insecure: Annotated[bool, Meta(description="bind an address beyond this machine without TLS")] = False


class RegistryConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="registry"):
    """A registry: which nodes hold which portion, and which tensors they await."""

    servers: Annotated[int, Meta(description="portions of the model", ge=1)]
    replicas: Annotated[int, Meta(description="nodes that may hold one portion", ge=1)] = 1
    lease: Annotated[float, Meta(description="seconds until a node without heartbeats is dropped", ge=LEAST_LEASE)] = (
        10.0
    )


class ProbeConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="probe"):
    """A probe: measures the network paths between hosts."""

    ports: Annotated[int, Meta(description="consecutive ports at which it answers, from `port` on", ge=1)] = 1


class ProfilerConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="profiler"):
    """A profiler: times runs of a model's operations on its host. Its `files` are the archive of the whole model."""

    threads: Threads = 0
    malloc: Malloc = "keep"


class RelayConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="relay"):
    """A relay: emulates the link between two hosts (`cluster.links`)."""

    hosts: Annotated[tuple[str, str], Meta(description="the names of the two hosts")]
    seed: Annotated[int, Meta(description="seed of the jitter", ge=0)] = 0


class NodeConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="node"):
    """A node: holds and executes one portion of the model. Its `files` are the exports of that portion."""

    registry: Annotated[dict[str, str], Meta(description="transport -> HOST:PORT of the registry")]
    portion: Annotated[int | None, Meta(description="portion to hold; null: the one with the fewest holders")] = None
    patience: Annotated[float, Meta(description="seconds to wait until the portion is free", ge=0.0)] = 0.0
    threads: Threads = 0
    malloc: Malloc = "keep"
    slowdown: Annotated[float, Meta(description="how many times as long its stages take, by waiting", ge=1.0)] = 1.0
    host: Annotated[str, Meta(description="name of its host, for emulated links")] = ""
    model_servers: Annotated[
        tuple[dict[str, str], ...], Meta(description="for each portion, interface -> HOST:PORT of its model server")
    ] = ()


class ModelServerConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="model-server"):
    """A model server. Its `files` are the SavedModels: MODEL/VERSION/..."""

    models: Annotated[tuple[str, ...], Meta(description="names of the models to serve", min_length=1)]
    binary: Annotated[str, Meta(description="program to run; empty: the model server of this project")] = ""
    tensor_content: Annotated[bool, Meta(description="answer with bytes instead of lists of values")] = False
    threads: Threads = 0
    malloc: Malloc = "keep"


class RayConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ray"):
    """A Ray cluster on one machine: the head node and its workers. Its `files` are the exports of every portion."""

    token: Annotated[str, Meta(description="secret of those who may connect, in hexadecimal digits", min_length=32)]


class TensorFlowServerConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensorflow-server"):
    """A `tf.distribute.Server`. It ignores `bind` and listens on every address of the machine."""

    threads: Threads = 0
    malloc: Malloc = "keep"


class SocketServerConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="socket-server"):
    """A server of the runtime `sockets`. Its `files` are the exports of its portion."""

    server: Annotated[int, Meta(description="the portion that it holds", ge=0)]
    threads: Threads = 0
    malloc: Malloc = "keep"


Config = (
    RegistryConfig
    | NodeConfig
    | ProbeConfig
    | ProfilerConfig
    | RelayConfig
    | ModelServerConfig
    | RayConfig
    | TensorFlowServerConfig
    | SocketServerConfig
)


def parse(document: str | bytes) -> Config:
    """The configuration in a JSON document. Raises `UsageError` with the path of the unusable field."""
    try:
        return msgspec.json.decode(document, type=Config)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration cannot be used: {error}") from None


def addresses(field: str, texts: dict[str, str]) -> dict[str, Address]:
    """The addresses in `texts` (name -> HOST:PORT). Raises `UsageError`, whose text begins with `field`."""
    try:
        return {name: Address.parse(text) for name, text in texts.items()}
    except ValueError as error:
        raise UsageError(f"{field}: {error}") from None


def teach() -> str:
    """The fields of each kind of document, one on a line, for a help text."""
    lines = []
    for kind in get_args(Config):
        lines.append(f'\n"kind": "{kind.__struct_config__.tag}"')
        for name, schema in msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"].items():
            if "description" in schema:
                default = f" (default: {json.dumps(schema['default'])})" if "default" in schema else ""
                lines.append(f"  {name:15} {schema['description']}{default}")
    return "\n".join(lines)
