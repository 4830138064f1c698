"""Packing: encodes tensors in fewer bytes while they cross a wire, with any transport.

A packer is a class and a line in `NAMES`. Its library is imported when it is loaded. `messages` applies it to messages.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import transports
from transports.errors import UsageError, suggest

if TYPE_CHECKING:
    from transports.packing.base import Packer

OFF = "none"
"""The value of `--wire` with which tensors cross unchanged."""
NAMES: Mapping[str, str] = {
    "f16": "transports.packing.floats:Float16",
    "bf16": "transports.packing.floats:BFloat16",
    "int8": "transports.packing.floats:Int8",
    "lz4": "transports.packing.lossless:Lz4",
    "zstd": "transports.packing.lossless:Zstd",
    "blosc2": "transports.packing.lossless:Blosc2",
    "zfp": "transports.packing.zfp:Zfp",
    "jpeg": "transports.packing.jpeg:Jpeg",
}
"""Packer name -> "module:class"."""
SHOWN = "none|f16|bf16|int8|lz4|zstd|blosc2|zfp:TOL|jpeg:QUALITY"
"""Every value of `--wire`, as a help text shows it."""


def check(wire: str) -> str:
    """`wire` in its canonical form: `zfp:1e-3` becomes `zfp:0.001`.

    Raises `UsageError` for an unknown name, and for an argument that is missing, superfluous or unusable. Needs no
    library of a packer.
    """
    if wire == OFF:
        return OFF
    name, colon, argument = wire.partition(":")
    if name not in NAMES:
        raise UsageError(f"--wire: no packing {name!r}{suggest(name, [OFF, *NAMES])}")
    module, _, attribute = NAMES[name].partition(":")
    kind: type[Packer] = getattr(importlib.import_module(module), attribute)
    try:
        return kind.parse(argument if colon else None).wire
    except ValueError as error:
        raise UsageError(f"--wire {wire}: {error}") from None


@lru_cache(maxsize=64)
def load(wire: str) -> Packer | None:
    """The packer of `wire`, ready to be used; None for `none`.

    Raises `UsageError` as `check` does, and for a library that is not installed.
    """
    if check(wire) == OFF:
        return None
    name, colon, argument = wire.partition(":")
    kind: type[Packer] = transports.find("packing", name, NAMES)
    transports.check_installed(name, kind.libraries, "packing")
    return kind.parse(argument if colon else None)


def is_lossless(wire: str) -> bool:
    """Whether every tensor comes back bit for bit. Raises `UsageError` as `check` does."""
    name = check(wire).partition(":")[0]
    return name == OFF or bool(transports.find("packing", name, NAMES).lossless)
