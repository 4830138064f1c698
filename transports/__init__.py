"""How a message of named tensors crosses from one process to another.

A transport is one file and one line in `NAMES`. `kind` gives its class, which describes it, without importing its
library; the library is imported when the transport serves or connects.
"""

from __future__ import annotations

import importlib
import importlib.util
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
        """Import these names at their first use: their modules load NumPy, which would slow `--help` down."""
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
    "check_installed",
    "find",
    "kind",
    "load",
    "make",
    "parse_options",
    "suggest",
    "values_of",
]

NAMES: Mapping[str, str] = {
    "none": "transports.direct:Direct",
    "rpyc": "transports.rpyc_transport:RpycStock",
    "rpyc-tuned": "transports.rpyc_transport:RpycTuned",
    "grpc": "transports.grpc_transport:Grpc",
    "grpc-tuned": "transports.grpc_transport:GrpcTuned",
    "rest": "transports.rest:Rest",
    "tcp": "transports.plain_sockets:Tcp",
    "unix": "transports.plain_sockets:Unix",
    "shm": "transports.shm:Shm",
    "zmq": "transports.zmq_transport:Zmq",
}
"""Transport name -> "module:class"."""


def kind(name: str) -> type[Transport]:
    """The transport class called `name`, whether or not its libraries are installed. Raises `UsageError`."""
    found: type[Transport] = find("transport", name, NAMES)
    return found


def find(what: str, name: str, names: Mapping[str, str]) -> Any:
    """The class called `name` in a table of "module:class". Raises `UsageError`, whose text calls the item a `what`."""
    if name not in names:
        raise UsageError(f"no {what} {name!r}{suggest(name, names)}")
    module, _, attribute = names[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def load(name: str) -> type[Transport]:
    """`kind(name)`, ready to be used. Raises `UsageError` for an unknown name or a library that is not installed."""
    found = kind(name)
    check_installed(name, found.libraries)
    return found


def check_installed(name: str, libraries: Mapping[str, str], what: str = "transport") -> None:
    """Raise `UsageError`, which says what to install, if a module in `libraries` (module -> package) is missing."""
    missing = [module for module in libraries if not _installed(module)]
    if missing:
        install = " ".join(dict.fromkeys(libraries.values()))
        raise UsageError(f"{what} {name!r} needs the package {missing[0]!r}: pip install {install}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that contains the module is missing
        return False


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
    """The transport called `name`, made with its `options` (NAME.KEY -> value).

    Raises `UsageError` for an unknown name or key, an unusable value, or a library that is not installed.
    """
    found = load(name)
    values = values_of(found.Options, name, options)
    try:
        return found(found.Options(**values))
    except UsageError as error:
        raise UsageError(f"--option {name}.{error}") from error


def values_of(noun: type[Any], name: str, options: Mapping[str, str], what: str = "transport") -> dict[str, Any]:
    """The values in `options` (NAME.FIELD -> text) for fields of the dataclass `noun`, in the types of its defaults.

    Raises `UsageError` for an unknown field, and for a value of another type.
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


def _parse(key: str, text: str, wanted: type) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if wanted is bool else wanted(text)
    except (ValueError, KeyError):
        raise UsageError(f"--option {key}={text}: {text!r} is no {wanted.__name__}") from None
