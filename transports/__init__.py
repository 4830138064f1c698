"""How a message of named tensors crosses from one process to another.

A transport is one file and one line in `NAMES`. Its library is imported when it is chosen, and no earlier.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transports.address import Address
from transports.errors import UsageError, suggest
from transports.limits import Limits

if TYPE_CHECKING:
    from transports.base import Connection, Handler, Message, Server, Transport
    from transports.tls import check_host
else:

    def __getattr__(name: str) -> Any:
        """Import these names at their first use: their modules load numpy, which `--help` must not wait for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{'tls' if name == 'check_host' else 'base'}"), name)


__all__ = [
    "NAMES",
    "Address",
    "Connection",
    "Handler",
    "Limits",
    "Message",
    "Server",
    "Transport",
    "check_host",
    "load",
    "make",
    "parse_options",
    "suggest",
    "values_of",
]

NAMES: Mapping[str, str] = {
    "none": "transports.direct:Direct",
    "rpyc": "transports.rpyc_stock:RpycStock",
    "rpyc-tuned": "transports.rpyc_tuned:RpycTuned",
    "grpc": "transports.grpc_protobuf:GrpcProtobuf",
    "rest": "transports.rest:Rest",
}
"""Transport name -> "module:class"."""

INSTALL: Mapping[str, str] = {
    "rpyc": "pip install rpyc",
    "grpc": "pip install grpcio protobuf",
    **dict.fromkeys(("h11", "orjson", "pybase64"), "pip install h11 orjson pybase64"),
}
"""Imported library -> how to get it."""


def load(name: str) -> type[Transport]:
    """The transport class called `name`. Raises `UsageError` for an unknown name or a library that is not there."""
    if name not in NAMES:
        raise UsageError(f"no transport {name!r}{suggest(name, NAMES)}")
    module, _, attribute = NAMES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        hint = INSTALL.get(missing, f"pip install {missing}")
        raise UsageError(f"transport {name!r} needs the package {missing!r}: {hint}") from error


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """`["grpc.max_message=1000"]` -> `{"grpc.max_message": "1000"}`. Raises `UsageError` for another form."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise UsageError(f"--option {text!r}: give NAME.KEY=VALUE, for example grpc.max_message=1000000")
        options[key] = value
    return options


def make(name: str, options: Mapping[str, str] = {}) -> Transport:
    """The transport called `name`, with what `options` (NAME.KEY -> value) says of it.

    Raises `UsageError` for an unknown name or key, a value of another type, or a library that is not there.
    """
    kind = load(name)
    values = values_of(kind.Options, name, options)
    try:
        return kind(kind.Options(**values))
    except UsageError as error:
        raise UsageError(f"--option {name}.{error}") from error


def values_of(noun: type[Any], name: str, options: Mapping[str, str], what: str = "transport") -> dict[str, Any]:
    """What `options` (NAME.FIELD -> text) say of the fields of the dataclass `noun`, each read as its default's type.

    Raises `UsageError` for a field that it has not, and for a value of another type.
    """
    defaults = {item.name: item.default for item in fields(noun)}
    values: dict[str, Any] = {}
    for key, text in options.items():
        owner, _, option = key.partition(".")
        if owner != name:
            continue
        if option not in defaults:
            raise UsageError(f"{what} {name!r} has no option {option!r}{suggest(option, defaults)}")
        values[option] = _parse(key, text, type(defaults[option]))
    return values


def _parse(key: str, text: str, kind: type) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise UsageError(f"--option {key}={text}: {text!r} is no {kind.__name__}") from None
