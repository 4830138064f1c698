"""The configurations of processes: what is accepted, and the errors for what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cluster import config
from cluster.config import ModelServerConfig, NodeConfig, RegistryConfig
from cluster.device import Device
from transports.errors import UsageError

EVERY = [
    RegistryConfig(servers=3, replicas=2, lease=0.5, transports=("grpc", "rest"), options={"grpc.max_message": "1000"}),
    NodeConfig(
        registry={"grpc": "127.0.0.1:7000"},
        files={"p/partition.json": "0" * 64},
        portion=1,
        cores=(0, 1),
        device=Device(("0",), tf32=True),
        model_servers=({"grpc": "127.0.0.1:8500", "rest": "127.0.0.1:8501"},),
    ),
    ModelServerConfig(models=("p.stage-0",), binary="tensorflow_model_server", threads=2, malloc="default"),
]


@pytest.mark.parametrize("document", EVERY, ids=lambda document: type(document).__name__)
def test_a_document_is_read_as_it_was_written(document: config.Config) -> None:
    assert config.parse(msgspec.json.encode(document)) == document


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({"servers": 1}, "missing required field `kind`"),
    "another kind": ({"kind": "nodes"}, "Invalid value 'nodes'"),
    "a missing field": ({"kind": "registry"}, "missing required field `servers`"),
    "an unknown field": ({"kind": "registry", "servers": 1, "lesae": 2}, "unknown field `lesae`"),
    "another type": ({"kind": "registry", "servers": "1"}, r"Expected `int`, got `str` - at `\$.servers`"),
    "a port below the range": ({"kind": "registry", "servers": 1, "port": -1}, r">= 0 - at `\$.port`"),
    "a lease too short": ({"kind": "registry", "servers": 1, "lease": 0.1}, r">= 0.2 - at `\$.lease`"),
    "no transport": ({"kind": "registry", "servers": 1, "transports": []}, r"at `\$.transports`"),
    "no worker": ({"kind": "node", "registry": {}, "workers": 0}, r">= 1 - at `\$.workers`"),
    "another malloc": ({"kind": "node", "registry": {}, "malloc": "never"}, r"at `\$.malloc`"),
    "no model": ({"kind": "model-server", "models": []}, r"at `\$.models`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_document_that_cannot_be_used_is_refused_with_the_field(case: str) -> None:
    document, words = REFUSED[case]
    with pytest.raises(UsageError, match=words):
        config.parse(msgspec.json.encode(document))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"null"])
def test_text_that_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match="the configuration cannot be used"):
        config.parse(text)


@pytest.mark.parametrize(("advertise", "expected"), [("", "10.0.0.1:7"), ("host.lan", "host.lan:7")])
def test_others_reach_a_process_under_the_advertised_address(advertise: str, expected: str) -> None:
    assert str(RegistryConfig(servers=1, bind="10.0.0.1", advertise=advertise).advertised(7)) == expected


def test_the_help_text_has_every_field() -> None:
    lines = config.teach().splitlines()
    for kind in (RegistryConfig, NodeConfig, ModelServerConfig):
        for name in kind.__struct_fields__:
            assert any(line.split()[:1] == [name] for line in lines)
