"""What an experiment is, before anything runs: frozen records, checked as a whole.

A `Cell` is one row of the tables to be: one way to run one partition. An `Experiment` is a set of cells over one model,
one input and one schedule. Every field that a person sets carries its own help text and its valid values; the command
line, the TOML files and the error messages are all derived from them, so that none knows more than another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import transports
from cluster.flows import FLOWS
from partitioning.engine_table import ENGINES, local_engine
from partitioning.placement import PLACEMENTS
from partitioning.strategies import MODES
from transports.limits import TLS_FILES, Limits
from transports.process import MALLOC

PHOTOGRAPH = Path(__file__).parents[1] / "data" / "astronaut.jpg"
"""The bundled photograph; `data/README.md` names its source and licence."""

CODECS = ("raw", "tensorproto", "json", "json-b64")
SHARED = ("max_message", *TLS_FILES)
"""Settings that are options of every transport."""


def _setting(default: Any, help: str, valid: tuple[str, ...] | None = None) -> Any:
    """A field that a person sets: `help` for `--help`, `valid` for choices, and the flag is the field's name."""
    return field(default=default, metadata={"help": help, "valid": valid})


@dataclass(frozen=True)
class Cell:
    """One way to run one partition. Every field is a flag, and a comma in the flag's value makes a matrix."""

    transport: str = _setting("grpc", "what carries the tensors", tuple(transports.NAMES))
    mode: str = _setting("layer", "what a stage is: the whole model, one operation, or one of N groups", MODES)
    flow: str = _setting(
        "nested",
        "who sends a stage's outputs on: the servers (nested, forward) or the client (hub)",
        tuple(FLOWS),
    )
    engine: str = _setting("eager", "how a stage is executed", tuple(ENGINES))
    codec: str = _setting(
        "raw",
        "how a tensor is written into a message (tensorproto: grpc only; json, its own, and json-b64: rest only)",
        CODECS,
    )
    batch: int = _setting(1, "images in a request")
    servers: int = _setting(5, "node processes that share the stages")
    placement: str = _setting("contiguous", "which server holds which stage", tuple(PLACEMENTS))
    cut: str = _setting(
        "equal",
        "where submodels are cut: equal, balanced (by cost), narrow (where few bytes cross), or operations, each the "
        "first of a new stage",
    )
    local_calls: str = _setting("on", "neighbouring stages on one server call each other directly", ("on", "off"))
    registry: str = _setting(
        "cached", "ask the registry where a tensor is awaited: once a lease, or at every hop", ("cached", "per-hop")
    )
    connections: str = _setting(
        "pooled", "keep connections, or make a new one for every message", ("pooled", "per-hop")
    )
    send: str = _setting(
        "bundle", "what leaves a server for another: all at once, or a message a tensor", ("bundle", "tensor")
    )
    concurrency: int = _setting(1, "requests that are under way at a time")
    repeats: int = _setting(0, "times that a request is repeated which was lost with a server")

    @property
    def name(self) -> str:
        """Unique among cells, stable, and short: what differs from the defaults is appended."""
        base = f"{self.transport}/{self.mode}/{self.flow}/{self.engine}/{self.codec}/b{self.batch}/s{self.servers}"
        return "/".join(
            [base, *(f"{key}={getattr(self, key)}" for key in _EXTRA if getattr(self, key) != getattr(Cell, key))]
        )


CELL_FIELDS = tuple(item.name for item in fields(Cell))
_EXTRA = CELL_FIELDS[CELL_FIELDS.index("placement") :]


def local_of(cell: Cell) -> Cell:
    """The local model that `cell` is compared with: `whole` x `none`, same engine and batch, one server."""
    return Cell(transport="none", mode="whole", engine=local_engine(cell.engine), batch=cell.batch, servers=1)


@dataclass(frozen=True)
class Experiment:
    """Cells over one model, one input and one schedule. Every field but `cells` is a flag."""

    cells: tuple[Cell, ...]
    title: str = _setting("", "a line above the report")
    model: str = _setting("MobileNetV3Large", "a name in keras.applications, or a .keras file")
    weights: str = _setting(
        "random",
        "random (seeded, activations of order one) or imagenet; a .keras file has its own",
        ("random", "imagenet"),
    )
    input: str = _setting(str(PHOTOGRAPH), "an image file")
    runs: int = _setting(50, "timed requests in each cell")
    warmup: int = _setting(5, "requests in each cell before the first timed one; each input once at the least")
    order: str = _setting(
        "shuffled", "shuffled = short randomised blocks; blocked = one cell after the other", ("shuffled", "blocked")
    )
    seed: int = _setting(0, "of weights, block order and bootstrap")
    timeout: float = _setting(60.0, "seconds that a request may take")
    workers: int = _setting(0, "calls that a server handles at a time; 0 = what plan and placement need")
    threads: int = _setting(0, "TensorFlow's intra-op threads in every process; 0 = TensorFlow's own choice")
    malloc: str = _setting("keep", "freed memory stays with the process (keep), or goes back to the kernel", MALLOC)
    pin: str = _setting("off", "each node on one core, and the local model on one", ("on", "off"))
    replicas: int = _setting(1, "node processes for each portion of the model; they take turns")
    lease: float = _setting(10.0, "seconds until the registry takes a node that is silent as gone")
    kill: str = _setting(
        "",
        "NODE@REQUEST: kill that node before that timed request of each cell, and start another (node-1@20); "
        "its cells run one after the other",
    )
    max_message: int = _setting(Limits.max_message, "largest payload of a message, in bytes, over every transport")
    host: str = _setting("127.0.0.1", "address at which every process listens; beyond this machine it takes TLS")
    insecure: str = _setting("off", "listen at a --host beyond this machine without TLS", ("on", "off"))
    tls_cert: str = _setting("", "PEM file of the certificate of every process; all three files turn TLS on")
    tls_key: str = _setting("", "PEM file of its key, not encrypted")
    tls_ca: str = _setting("", "PEM file of the authority that signed it")
    option: Mapping[str, str] = field(
        default_factory=dict, metadata={"help": "NAME.KEY=VALUE: what one transport or engine alone has", "valid": None}
    )

    @property
    def turns(self) -> str:
        """The order in which cells have theirs: a kill is the business of one cell, which recovers before the next."""
        return "blocked" if self.kill else self.order

    @property
    def options(self) -> Mapping[str, str]:
        """NAME.KEY -> value for `transports.make`: what all transports share, and over it what was said of one."""
        names = dict.fromkeys(cell.transport for cell in self.cells)
        shared = {key: getattr(self, key) for key in SHARED if getattr(self, key) != getattr(Experiment, key)}
        return {f"{name}.{key}": str(value) for name in names for key, value in shared.items()} | dict(self.option)

    def with_locals(self) -> Experiment:
        """The same experiment with the local model of every cell in it, locals first, each cell once."""
        locals_ = [local_of(cell) for cell in self.cells]
        return replace(self, cells=tuple(dict.fromkeys([*locals_, *self.cells])))
