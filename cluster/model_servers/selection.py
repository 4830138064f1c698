"""The choice of the model server that executes stages. Imports neither TensorFlow nor the official stubs.

The engines `tfserving` and `tfserving-rest` call the same stages in the same model servers, over gRPC and over REST.
The real server runs if it is named or on PATH; otherwise the server of this project runs, under a different name.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import tfserving
import transports
from cluster.device import PROCESSOR, Device
from transports.errors import UsageError

BINARY = "tensorflow_model_server"
REAL, OURS = "TF Serving", "TFS-compatible"
OWNER = "tfserving"
"""NAME in `--option NAME.KEY=VALUE`: the same for both engines, since they share their model servers."""
BUILT_IN = "none"
"""The value of `binary` that selects the server of this project, even if the real one is on PATH."""

INTERFACES: Mapping[str, str] = {"tfserving": "grpc", "tfserving-rest": "rest"}
"""Engine -> the interface of the model server that it calls."""


@dataclass(frozen=True)
class ServingOptions:
    """`--option tfserving.KEY=VALUE`, for both engines."""

    binary: str = ""
    """Name or path of the program; `none`: the server of this project; empty: the real one on PATH, or else the server
    of this project."""
    tensor_content: bool = False
    """Whether the server answers with bytes. The real server always answers with lists of values."""


@dataclass(frozen=True)
class Settings:
    """The choice of the model server, and its settings except for its models."""

    binary: str | None = None
    """The program to run; None: the server of this project."""
    tensor_content: bool = False
    threads: int = 0
    """TensorFlow's threads; 0: its own choice."""
    malloc: str = "keep"
    device: Device = PROCESSOR
    """The device of the servers. If it has cards, each server gets one card, in turn."""

    @property
    def kind(self) -> str:
        """The name of the server in tables."""
        return REAL if self.binary else OURS


def find_binary(named: str | None = None) -> str | None:
    """The path of the program `named`, or of the real server on PATH; None if there is neither.

    Raises `UsageError` if `named` cannot be run.
    """
    found = shutil.which(named or BINARY)
    if named and found is None:
        raise UsageError(f"{named!r} is no program that can be run; name a {BINARY}")
    return found


def choose(engines: Collection[str], option: Mapping[str, str]) -> Settings | None:
    """The model server for the remote engines in `engines`; None if all engines are local.

    Raises `UsageError` for a missing library, and for an `option` (NAME.KEY -> value) that has no effect.
    """
    served = [engine for engine in engines if engine in INTERFACES]
    if not served:
        return None
    if missing := tfserving.missing_libraries():
        raise UsageError(f"engine {served[0]!r} needs the extra 'serving': pip install {' '.join(missing)}")
    options = ServingOptions(**transports.values_of(ServingOptions, OWNER, option, what="engine"))
    try:
        binary = None if options.binary == BUILT_IN else find_binary(options.binary or None)
    except UsageError as error:
        raise UsageError(f"--option {OWNER}.binary: {error}, or {BUILT_IN} for the server of this project") from None
    if options.tensor_content and binary:
        raise UsageError(
            f"--option {OWNER}.tensor_content: {binary} always answers with lists of values; valid with the server "
            f"of this project: --option {OWNER}.binary={BUILT_IN}"
        )
    if options.tensor_content and OWNER not in served:
        raise UsageError(f"--option {OWNER}.tensor_content: over REST no tensor has bytes; valid with --engine {OWNER}")
    return Settings(binary, options.tensor_content)


def title(engine: str, kind: str) -> str:
    """The name in tables of an engine whose stages ran in model servers of kind `kind`."""
    return f"{kind} over REST" if INTERFACES[engine] == "rest" else kind
