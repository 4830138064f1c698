"""The flags of `splitbench simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cluster.flow_table import FLOW_NAMES
from cluster.links.link import Link
from experiments.spec.load import Load
from partitioning.options import Parser, option, options_of
from transports.errors import UsageError
from transports.limits import DAY

if TYPE_CHECKING:
    from experiments.simulate.engine import Clients

PROG = "python -m experiments.simulate"
DESCRIPTION = """\
Simulate more hosts, replicas and clients than this machine has, from a measured cell of a results folder.

The cell gives the seconds of each step of a request that is alone: its stages, and what each process does to send and
receive messages. A discrete-event simulation lets many requests compete for cores, processes and links, and says how
long they take, how much of everything is used, and what is full first. Measure the cell with --trace, and with
--concurrency 1,2,4: the seconds of each server are then known, and how far requests at the same time slow each other.

A profile (splitbench profile) does as well, for any cut that it knows: --transport, --cut, --flow. Its seconds are
constant.

A comma in a flag marked * makes a matrix. Nothing is measured, and nothing of it enters the tables of measured cells.
docs/simulation.md says what is modelled and what is not."""

EPILOG = """\
examples:
  %(prog)s results/mine --load poisson:20/s,poisson:40/s,poisson:80/s --replicas 1,2,4 --hosts each
  %(prog)s results/mine --concurrency 1,2,4,8             # clients on the machine of the run
  %(prog)s results/profile --transport grpc --cut conv_1,conv_2 --flow forward --load poisson:50/s --hosts each
  %(prog)s results/mine --load constant:50/s --hosts 3 --cores 4 --link rtt:1ms,bandwidth:1Gbit --out results/planned

exit status: 0 simulated; 1 a file cannot be written; 2 a value cannot be used; 130 interrupted."""

RUN, EACH = "run", "each"
OF_PROFILE = ("transport", "cut", "flow")
"""Options that only a profile takes."""
MOST_HOSTS = 10_000


@dataclass(frozen=True)
class SimulateOptions:
    """The flags of a simulation, beside the results folder."""

    cell: Annotated[
        str, option("the measured cell, by name", metavar="NAME", shown="the only one that can be simulated")
    ] = ""
    transport: Annotated[
        str, option("of a profile: what carries the tensors", metavar="NAME", shown="its first transport")
    ] = ""
    cut: Annotated[
        str,
        option(
            "of a profile: the operations that begin a new server",
            metavar="NAME,...",
            shown="one server",
        ),
    ] = ""
    flow: Annotated[
        str, option("of a profile: who sends outputs on", metavar="|".join(FLOW_NAMES), shown=FLOW_NAMES[0])
    ] = ""
    load: Annotated[
        tuple[str, ...],
        option("open loop: poisson:20/s or constant:20/s", metavar="KIND:RATE/s", min_length=1),
    ] = ()
    concurrency: Annotated[
        tuple[int, ...],
        option("closed loop: clients that each wait for an answer", ge=1, le=100_000, shown="1 without --load"),
    ] = ()
    replicas: Annotated[
        tuple[int, ...], option("processes for each server, used in turn", ge=1, le=1000, shown="1")
    ] = (1,)
    hosts: Annotated[
        str,
        option(
            "run: everything as in the run; each: a host for every server and replica; N: so many hosts, to which they "
            "are dealt in turn. With each and N, the client has a host of its own",
            metavar="run|each|N",
        ),
    ] = RUN
    cores: Annotated[int, option("cores of each host; 0: as many as the machine of the run has", ge=0, le=4096)] = 0
    link: Annotated[
        str,
        option(
            "what lies between every two hosts: rtt:1ms,bandwidth:1Gbit",
            metavar="WORD:VALUE,...",
            shown="what lay between them in the run",
        ),
    ] = ""
    p99: Annotated[
        float,
        option(
            "a load is held if the 99th percentile is within this time; 0: twice that of one request at a time",
            *("", "report"),
            ge=0,
            le=DAY,
            unit="seconds",
        ),
    ] = 0.0
    timeout: Annotated[float, option("time limit of a request; 0: that of the run", ge=0, le=DAY, unit="seconds")] = 0.0
    requests: Annotated[int, option("requests for each row; a tenth does not count", ge=100, le=10**6)] = 10_000
    seed: Annotated[int, option("seed of arrivals, and of which measured requests are drawn", ge=0, le=2**32 - 1)] = 0
    out: Annotated[str, option("where results go", metavar="FOLDER", shown="they are only printed", min_length=1)] = ""


def read(words: Sequence[str], prog: str = PROG) -> tuple[Path, SimulateOptions]:
    """The results folder and the flags. Raises `PartitionError` or `UsageError` for what cannot be used."""
    options = options_of(SimulateOptions)
    parser = Parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("folder", metavar="RUN", help="the results folder of a run, or a profile")
    parser.add_options(options.values(), axes=[name for name, item in options.items() if item.several])
    texts = parser.texts(words)
    folder = Path(texts.pop("folder"))
    values = {name: options[name].values(text, options[name].flag) for name, text in texts.items()}
    given: dict[str, Any] = {name: found if options[name].several else found[0] for name, found in values.items()}
    return folder, SimulateOptions(**given)


def loads_of(options: SimulateOptions) -> list[Clients]:
    """Every load, open loops first. Raises `UsageError` for one that cannot be read."""
    closed = options.concurrency or (() if options.load else (1,))
    return [*(Load.parse(text) for text in options.load), *closed]


def link_of(text: str) -> Link | None:
    """Raises `UsageError`."""
    return Link.parse(f"host<->host2 {text}") if text else None


def check_hosts(text: str) -> None:
    if text in (RUN, EACH) or (text.isdecimal() and 1 <= int(text) <= MOST_HOSTS):
        return
    raise UsageError(f"--hosts {text!r}: no number of hosts; valid: {RUN}, {EACH}, or 1 to {MOST_HOSTS}")
