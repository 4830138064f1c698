"""The records that describe an experiment before anything runs. They are frozen.

A `Cell` is a row of the tables: one way to run one partition. An `Experiment` is a set of cells over one model, one
input and one schedule. Each option is declared here once, with its type, default, range, valid values, help and unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

from cluster import runtimes
from cluster.device import PROCESSOR, Device, cards
from cluster.flow_table import FLOW_NAMES
from cluster.hosts import VERSIONS, Host
from cluster.idle import IDLE
from cluster.leases import LEAST_LEASE
from experiments.spec.groups import (
    ALL,
    CODECS,
    FILES,
    TRANSPORTS,
    Load,
    Trace,
    Wire,
    access,
    carry,
    compute,
    failure,
    pem,
    place,
    schedule,
    split_links,
)
from partitioning.engine_table import ENGINES, local_engine
from partitioning.input_options import PHOTOGRAPH, PIXELS, Absent, Extent, Input, Scale
from partitioning.options import (
    INPUT,
    SWITCH,
    Cut,
    Imports,
    Mode,
    Model,
    Option,
    Placed,
    Servers,
    TrustModel,
    option,
    options_of,
)
from transports import packing
from transports.limits import CONNECTIONS, DAY, TLS_FILES, Limits
from transports.process import MALLOC


@dataclass(frozen=True)
class Cell:
    """One way to run one partition. Every field is a flag; a comma in the flag's value makes a matrix."""

    transport: Annotated[str, carry("what carries the tensors", concerns=ALL, valid=TRANSPORTS)] = "grpc"
    mode: Mode = "layer"
    flow: Annotated[
        str,
        carry("sender of a stage's outputs: the servers (nested, forward) or the client (hub)", valid=FLOW_NAMES),
    ] = "nested"
    engine: Annotated[str, compute("how a stage is executed", valid=ENGINES)] = "eager"
    codec: Annotated[
        str,
        carry(
            "how tensors are encoded (tensorproto: grpc only; json, its default, and json-b64: rest only)", valid=CODECS
        ),
    ] = "raw"
    # For most models, memory (`partitioning.memory`) sets a much lower limit.
    batch: Annotated[
        int, compute("samples in a request: the extent of axis 0 of every input", concerns="client", ge=1, le=10**6)
    ] = 1
    servers: Servers = 5
    placement: Placed = "contiguous"
    cut: Cut = "equal"
    local_calls: Annotated[
        str, carry("neighbouring stages on one server call each other directly", concerns="nodes", valid=SWITCH)
    ] = "on"
    registry: Annotated[
        str,
        carry(
            "look up a tensor's consumers once a lease, or for every message", concerns=ALL, valid=("cached", "per-hop")
        ),
    ] = "cached"
    connections: Annotated[
        str, carry("keep connections, or make one for every message", valid=("pooled", "per-hop"))
    ] = "pooled"
    send: Annotated[
        str,
        carry("messages to a server: one for all tensors, or one for each", valid=("bundle", "tensor")),
    ] = "bundle"
    # A server holds the connections of all clients and of every other server.
    concurrency: Annotated[int, schedule("requests in flight at a time", ge=1, le=CONNECTIONS // 4)] = 1
    load: Load = ""
    repeats: Annotated[
        int, failure("times that a request is repeated if a server is lost with it", concerns="client", ge=0, le=10**7)
    ] = 0

    on: Annotated[
        str,
        place(
            "hosts whose servers hold the stages, by name or label: edge+cloud (the first servers on edge), cloud",
            metavar="HOST+HOST",
        ),
    ] = ""
    link: Annotated[
        str,
        place(
            "emulate a link: 'edge<->cloud rtt:20ms,jitter:2ms,bandwidth:50Mbit', or 'edge->cloud ...' for one "
            "direction; may be repeated",
            metavar="A<->B WORD:VALUE,...",
            joined=True,
            split=split_links,
        ),
    ] = ""
    label: Annotated[
        str, schedule("name for a cell; a,b measures each cell twice (A/A: its ratio to itself should be 1)")
    ] = ""
    trace: Trace = "off"
    wire: Wire = packing.OFF

    @property
    def name(self) -> str:
        """Unique among cells, stable, and short: settings from `placement` on are named only where they differ from
        their defaults."""
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
    title: Annotated[str, option("a line above the report", FILES, "report")] = ""
    model: Model = "MobileNetV3Large"
    weights: Annotated[
        str,
        option(
            "random (seeded, activations of order one) or imagenet; a .keras file has its own",
            *(INPUT, "client, nodes, model servers"),
            valid=("random", "imagenet"),
        ),
    ] = "random"
    input: Input = str(PHOTOGRAPH)
    scale: Scale = PIXELS
    extent: Extent = ()
    absent: Absent = ()
    imports: Imports = ()
    trust_model: TrustModel = "off"
    cluster: Annotated[
        str,
        place(
            "where processes run: local (this machine), ssh (the hosts, by the system's OpenSSH), ray (a Ray cluster)",
            metavar="local|ssh|ray[:HOST:PORT]",
        ),
    ] = "local"
    hosts: Annotated[
        str,
        place(
            "the machines: a TOML file with a [[host]] table for each, or NAME:SERVERS,NAME:SERVERS; with --cluster "
            "local, names for parts of this machine",
            metavar="FILE|NAME:N,...",
            short="-H",
        ),
    ] = ""
    ssh: Annotated[str, place("the ssh command for --cluster ssh, such as 'ssh -F FILE'", concerns="client")] = "ssh"
    versions: Annotated[
        str,
        place(
            "hosts with other versions of Python, TensorFlow, Keras or this package: refuse them, or record it",
            valid=VERSIONS,
        ),
    ] = "same"
    runs: Annotated[int, schedule("timed requests in each cell", ge=1, le=10**7)] = 50
    until_stable: Annotated[
        float,
        schedule(
            "stop once the interval of every x / Local is within this percentage, --runs at the latest; 0: never",
            concerns="client, report",
            ge=0,
            le=100,
            unit="percent",
        ),
    ] = 0.0
    limit: Annotated[
        float, schedule("start no further round after this time; 0: no limit", ge=0, le=DAY, unit="seconds")
    ] = 0.0
    warmup: Annotated[
        int, schedule("requests in each cell before the first timed one; at least one for each input", ge=0, le=10**7)
    ] = 5
    order: Annotated[
        str, schedule("rounds of short shuffled blocks, or one cell after the other", valid=("shuffled", "blocked"))
    ] = "shuffled"
    # numpy and Keras take no larger seed.
    seed: Annotated[
        int, schedule("seed of weights, block order and bootstrap", concerns="client, report", ge=0, le=2**32 - 1)
    ] = 0
    timeout: Annotated[float, access("time limit of a request", gt=0, le=DAY, unit="seconds")] = 60.0
    workers: Annotated[
        int,
        compute("calls that a server handles at a time; 0: enough for the plan", concerns="nodes", ge=0, le=2**16),
    ] = 0
    threads: Annotated[
        int, compute("TensorFlow's intra-op threads in every process; 0: TensorFlow's own choice", ge=0, le=1024)
    ] = 0
    malloc: Annotated[str, compute("a process keeps freed memory, or returns it to the kernel", valid=MALLOC)] = "keep"
    device: Annotated[
        str, compute("what stages are executed on; gpu: each node takes one card, in turn", valid=("cpu", "gpu"))
    ] = "cpu"
    tf32: Annotated[str, compute("multiply float32 in TF32 (with 10 bits of mantissa) on a card", valid=SWITCH)] = "off"
    pin: Annotated[str, compute("pin each node to one core, and the local model to one", valid=SWITCH)] = "off"
    idle: Annotated[str, compute("idle processors sleep as the system decides, or poll (root)", valid=IDLE)] = IDLE[0]
    replicas: Annotated[int, failure("node processes for each portion of the model, used in turn", ge=1, le=64)] = 1
    lease: Annotated[
        float, failure("time after which the registry drops a silent node", ge=LEAST_LEASE, le=DAY, unit="seconds")
    ] = 10.0
    kill: Annotated[
        str,
        failure(
            "kill this node before this timed request of each cell, and start another; cells run one after the other",
            concerns="client, nodes",
            metavar="NODE@REQUEST",
        ),
    ] = ""
    max_message: Annotated[int, access("largest payload of a message", concerns="transports", ge=1, unit="bytes")] = (
        Limits.max_message
    )
    host: Annotated[
        str,
        access(
            "address at which every process (with hosts, the client) listens; one that other machines reach needs TLS",
            min_length=1,
        ),
    ] = "127.0.0.1"
    insecure: Annotated[str, access("listen without TLS at a --host that other machines reach", valid=SWITCH)] = "off"
    tls_cert: Annotated[str, pem("PEM file with every process's certificate; all three files turn TLS on")] = ""
    tls_key: Annotated[str, pem("PEM file with its key, not encrypted")] = ""
    tls_ca: Annotated[str, pem("PEM file of the authority that signed it")] = ""
    option: Mapping[str, str] = field(default_factory=dict)
    """NAME.KEY -> value: options that one transport or engine alone has."""
    profile: Annotated[
        str, option("folder that splitbench profile wrote, for --cut advised", FILES, metavar="FOLDER")
    ] = ""
    machines: tuple[Host, ...] = ()
    """The hosts that `hosts`, or the tables [[host]] of a file, describe."""

    @property
    def several_machines(self) -> bool:
        """Whether processes run on other machines than this."""
        return self.cluster != "local"

    @property
    def turns(self) -> str:
        """The order of blocks: with a kill `blocked`, so that each cell recovers before the next begins."""
        return "blocked" if self.kill else self.order

    @property
    def hardware(self) -> Device:
        """The device of all processes together. Raises `UsageError` if there is no card."""
        return Device(tuple(cards()), self.tf32 == "on") if self.device == "gpu" else PROCESSOR

    @property
    def options(self) -> Mapping[str, str]:
        """NAME.KEY -> value for `transports.make`. `option` overrides the settings that all transports share."""
        names = dict.fromkeys(cell.transport for cell in self.cells if not runtimes.is_runtime(cell.transport))
        shared = {
            key: getattr(self, key)
            for key, item in SETTINGS.items()
            if "transports" in item.concerns
            and getattr(self, key) != item.default
            # With several machines, these files are copied to each host, into a folder that is not known yet.
            and not (self.several_machines and key in TLS_FILES)
        }
        return {f"{name}.{key}": str(value) for name in names for key, value in shared.items()} | dict(self.option)

    def with_locals(self) -> Experiment:
        """The same experiment with the local model of every cell in it, locals first, each cell once."""
        locals_ = [local_of(cell) for cell in self.cells]
        return replace(self, cells=tuple(dict.fromkeys([*locals_, *self.cells])))


SETTINGS: Mapping[str, Option] = options_of(Cell, several=True) | options_of(Experiment)
"""Every option of a run by name, cell options first."""
