"""What a process of a cluster is started with: one JSON document each, checked before anything is bound.

    {"kind": "registry", "servers": 2, "transports": ["grpc"]}

`kind` says what runs: `registry`, `node`, `model-server`, `ray` or `tensorflow-server`. An unknown field, a value of
another type and one out of range are refused with the path of the field.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from cluster.leases import LEAST_LEASE
from transports.address import Address
from transports.errors import UsageError


class _Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every process has."""

    bind: Annotated[str, Meta(description="host name or address whose ports it binds", min_length=1)] = "127.0.0.1"
    advertise: Annotated[str, Meta(description="address under which others reach it; empty: the one bound")] = ""
    cores: Annotated[tuple[int, ...], Meta(description="cores that it may use; none named: every one")] = ()
    folder: Annotated[str, Meta(description="where its files lie; a launcher sets it")] = "."
    files: Annotated[
        dict[str, str], Meta(description="path below `folder` -> SHA-256; nothing else below it is loaded")
    ] = {}

    def advertised(self, port: int) -> Address:
        """The address under which others reach `port`."""
        return Address(self.advertise or self.bind, port)


class _Service(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A process that serves messages over transports."""

    transports: Annotated[tuple[str, ...], Meta(description="names; each gets a port of its own", min_length=1)] = (
        "grpc",
    )
    port: Annotated[int, Meta(description="of the first transport, the next ones follow; 0: free ones", ge=0)] = 0
    workers: Annotated[int, Meta(description="calls handled at a time on each transport", ge=1)] = 16
    options: Annotated[dict[str, str], Meta(description="NAME.KEY -> value: options of transports")] = {}
    insecure: Annotated[bool, Meta(description="bind an address beyond this machine without TLS")] = False


class RegistryConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="registry"):
    """A registry: which nodes hold which portion, and where tensors are awaited."""

    servers: Annotated[int, Meta(description="portions of the model", ge=1)]
    replicas: Annotated[int, Meta(description="nodes that may hold one portion", ge=1)] = 1
    lease: Annotated[float, Meta(description="seconds until a node that is gone is absent", ge=LEAST_LEASE)] = 10.0


class NodeConfig(_Service, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="node"):
    """A node: holds and executes one portion of the model. Its `files` are the exports of that portion."""

    registry: Annotated[dict[str, str], Meta(description="transport -> HOST:PORT of the registry")]
    portion: Annotated[int | None, Meta(description="the portion to hold; null: one that has too few holders")] = None
    patience: Annotated[float, Meta(description="seconds to wait for a portion that is not free yet", ge=0.0)] = 0.0
    threads: Annotated[int, Meta(description="TensorFlow's threads; 0: its own choice", ge=0)] = 0
    malloc: Annotated[Literal["keep", "default"], Meta(description="keep freed memory, or return it")] = "keep"
    model_servers: Annotated[
        tuple[dict[str, str], ...], Meta(description="for each server, interface -> HOST:PORT of its model server")
    ] = ()


class ModelServerConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="model-server"):
    """A model server. Its `files` are the SavedModels: MODEL/VERSION/..."""

    models: Annotated[tuple[str, ...], Meta(description="names of the models to serve", min_length=1)]
    binary: Annotated[str, Meta(description="a tensorflow_model_server; empty: the server of this project")] = ""
    tensor_content: Annotated[bool, Meta(description="answer with bytes, not with lists of values")] = False
    threads: Annotated[int, Meta(description="TensorFlow's threads; 0: its own choice", ge=0)] = 0
    malloc: Annotated[Literal["keep", "default"], Meta(description="keep freed memory, or return it")] = "keep"


class RayConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ray"):
    """A Ray cluster on one machine: the head node and its workers. Its `files` are the exports of every portion."""

    token: Annotated[str, Meta(description="hexadecimal digits that a program must have to connect", min_length=32)]


class TensorFlowServerConfig(_Process, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tensorflow-server"):
    """A `tf.distribute.Server`. It listens on every address of the machine, whatever `bind` says."""

    threads: Annotated[int, Meta(description="TensorFlow's threads; 0: its own choice", ge=0)] = 0
    malloc: Annotated[Literal["keep", "default"], Meta(description="keep freed memory, or return it")] = "keep"


Config = RegistryConfig | NodeConfig | ModelServerConfig | RayConfig | TensorFlowServerConfig


def parse(document: str | bytes) -> Config:
    """The configuration in a JSON document. Raises `UsageError` with the path of the field that cannot be used."""
    try:
        return msgspec.json.decode(document, type=Config)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration cannot be used: {error}") from None


def addresses(field: str, texts: dict[str, str]) -> dict[str, Address]:
    """The addresses in the field of that name. Raises `UsageError`."""
    try:
        return {name: Address.parse(text) for name, text in texts.items()}
    except ValueError as error:
        raise UsageError(f"{field}: {error}") from None


def teach() -> str:
    """The fields of each kind of document, for a help text: a line each."""
    lines = []
    for kind in get_args(Config):
        lines.append(f'\n"kind": "{kind.__struct_config__.tag}"')
        for field in msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"].items():
            name, schema = field
            if "description" in schema:
                default = (
                    f" (default: {msgspec.json.encode(schema['default']).decode()})" if "default" in schema else ""
                )
                lines.append(f"  {name:15} {schema['description']}{default}")
    return "\n".join(lines)
