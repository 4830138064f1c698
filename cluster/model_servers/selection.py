"""Which engines run in model servers, and which model server that is. Imports neither TensorFlow nor the stubs.

`tfserving` and `tfserving-rest` are the same stages in the same servers, called over gRPC and over REST. The real
server is used where it is named or PATH has it; elsewhere ours is, and is never called by the other's name.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import transports
from transports.errors import UsageError
from transports.process import MALLOPT

BINARY = "tensorflow_model_server"
REAL, OURS = "TF Serving", "TFS-compatible"
OWNER = "tfserving"
"""NAME in `--option NAME.KEY=VALUE`, for both engines: they share their servers."""
NOBODY = "none"
"""The `binary` that asks for our server, whatever PATH has."""


@dataclass(frozen=True)
class Engine:
    """What calls a model server: one of its interfaces, and the class that does (`module:class`)."""

    title: str
    """What distinguishes it in tables, behind the name of the server."""
    interface: str
    client: str


ENGINES: Mapping[str, Engine] = {
    "tfserving": Engine("", "grpc", "tfserving.grpc_client:Client"),
    "tfserving-rest": Engine(" over REST", "rest", "tfserving.rest_client:RestClient"),
}

LIBRARIES: Mapping[str, str] = {
    "tensorflow_serving": "'tensorflow-serving-api>=2.20,<2.22'",
    "orjson": "'orjson>=3.10'",
    "h11": "'h11>=0.16'",
}
"""Imported library -> what pip calls it: the extra `serving`."""


@dataclass(frozen=True)
class ServingOptions:
    """What these engines have of their own."""

    binary: str = ""
    """The program that serves: the real one's name or path; `none` for ours; or nothing: what PATH has, else ours."""
    tensor_content: bool = False
    """Whether our server answers with bytes; the real one answers with lists of values, always."""


@dataclass(frozen=True)
class Settings:
    """Which model server runs, and how, apart from the models in it."""

    binary: str | None = None
    """The real server; None: ours."""
    tensor_content: bool = False
    """Whether ours answers with bytes; the real one cannot."""
    threads: int = 0
    """Of TensorFlow; 0: its own choice."""
    malloc: str = "keep"
    """Whether freed memory stays with the process (`cluster.process.tune`)."""
    name: str = "the model server"
    """How errors call it."""

    @property
    def kind(self) -> str:
        """What every table calls the server."""
        return REAL if self.binary else OURS

    def flags(self) -> list[str]:
        flags = [f"--tensorflow_session_parallelism={self.threads}"] if self.threads else []
        flags += [] if self.binary else [f"--malloc={self.malloc}"]
        return [*flags, "--tensor_content"] if self.tensor_content else flags

    def variables(self) -> dict[str, str]:
        """What `keep` is to a program that is not ours, as variables of glibc (mallopt(3))."""
        if self.malloc != "keep" or not self.binary:
            return {}
        return {f"MALLOC_{name.removeprefix('M_')}_": str(value) for name, (_, value) in MALLOPT.items()}


def find_binary(named: str | None = None) -> str | None:
    """The real server: `named`, else what PATH has, else None. Raises `UsageError` where `named` cannot be run."""
    found = shutil.which(named or BINARY)
    if named and found is None:
        raise UsageError(f"{named!r} is no program that can be run; name a {BINARY}")
    return found


def choose(engines: Collection[str], option: Mapping[str, str]) -> Settings | None:
    """The server for those of `engines` that run in one; None where none does.

    Raises `UsageError` where a library is missing, and for what `option` (NAME.KEY -> value) says and nothing heeds.
    """
    served = [engine for engine in engines if engine in ENGINES]
    if not served:
        return None
    _check_installed(served[0])
    options = ServingOptions(**transports.values_of(ServingOptions, OWNER, option, what="engine"))
    binary = None if options.binary == NOBODY else _named(options.binary)
    if options.tensor_content and binary:
        raise UsageError(
            f"--option {OWNER}.tensor_content: {binary} answers with lists of values, always; "
            f"valid with our server: --option {OWNER}.binary={NOBODY}"
        )
    if options.tensor_content and OWNER not in served:
        raise UsageError(f"--option {OWNER}.tensor_content: over REST no tensor has bytes; valid with --engine {OWNER}")
    return Settings(binary, options.tensor_content)


def title(engine: str, kind: str) -> str:
    """What tables call one of `ENGINES` whose stages ran in servers of that kind."""
    return f"{kind}{ENGINES[engine].title}"


def _named(binary: str) -> str | None:
    try:
        return find_binary(binary or None)
    except UsageError as error:
        raise UsageError(f"--option {OWNER}.binary: {error}, or {NOBODY} for the server that comes with this") from None


def _check_installed(engine: str) -> None:
    missing = [words for library, words in LIBRARIES.items() if importlib.util.find_spec(library) is None]
    if missing:
        raise UsageError(f"engine {engine!r} needs the extra 'serving': pip install {' '.join(missing)}")
