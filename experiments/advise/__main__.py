"""`python -m experiments.advise`: finds the best cut, hosts and transport from a profile."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cluster.hosts import VERSIONS
from experiments.cli import exit_status
from experiments.spec.groups import split_links
from partitioning.advice import GOALS
from partitioning.options import Parser, option
from transports.errors import UsageError

PROG = "python -m experiments.advise"
DESCRIPTION = """\
Rank the ways to place a model: where to cut it, on which hosts, over which transport; no cut at all is among them.

The seconds come from a profile (`splitbench profile`) and from the arithmetic of links; nothing is measured, unless
--verify asks for it. With one or two servers every profiled position is considered; with more, the positions where a
single tensor crosses, and a bound says how much a cut elsewhere could gain."""

EPILOG = """\
examples:
  %(prog)s --profile results/profile --link 'edge<->cloud rtt:20ms,bandwidth:50Mbit'
  %(prog)s --profile results/profile --link 'edge<->cloud rtt:1ms,bandwidth:5Mbit' --transport grpc --keep-first 10
  %(prog)s --profile results/profile --hosts hosts.toml --goal throughput --servers 3 --memory pi=500000000
  %(prog)s --profile results/profile --link 'edge<->cloud rtt:20ms,bandwidth:50Mbit' --verify --out results/verified
  %(prog)s --profile results/profile --fit results/edge-cloud    # correct the profile by runs, and say how well

exit status: 0 done; 1 a measurement of --verify failed; 2 a value cannot be used, or no cut meets the constraints; 130
interrupted."""

VERIFY = ("off", "top", "all")
ASK, CHECK = "question", "measured"


@dataclass(frozen=True)
class AdviseOptions:
    """The options of an advice."""

    profile: Annotated[str, option("folder that splitbench profile wrote", ASK, metavar="FOLDER")] = ""
    model: Annotated[
        str, option("the model that the profile has to be of; with --verify, where its file is", ASK, shown="any")
    ] = ""
    engine: Annotated[str, option("the engine that the profile has to be of", ASK, shown="any")] = ""
    batch: Annotated[int, option("the batch that the profile has to be of; 0: any", ASK, ge=0)] = 0
    hosts: Annotated[
        str,
        option(
            "the machines, as for a run: their cpu, memory and client may differ from those of the profile",
            *(ASK, "client"),
            metavar="FILE|NAME:N,...",
            shown="those of the profile",
            short="-H",
        ),
    ] = ""
    link: Annotated[
        str,
        option(
            "a link between hosts, as for a run; may be repeated",
            *(ASK, "client"),
            metavar="A<->B WORD:VALUE,...",
            joined=True,
            split=split_links,
            shown="what the profile has measured between machines; none on one machine",
        ),
    ] = ""
    transport: Annotated[
        tuple[str, ...], option("transports to consider", ASK, metavar="NAME,...", shown="all of the profile")
    ] = ()
    goal: Annotated[str, option("fewest seconds of one request, or most requests per second", ASK, valid=GOALS)] = (
        GOALS[0]
    )
    servers: Annotated[int, option("most servers that share the model", ASK, ge=1, le=8)] = 2
    keep_first: Annotated[
        int, option("this many first operations stay on the host of the client (its inputs never leave it)", ASK, ge=0)
    ] = 0
    deadline: Annotated[float, option("a request may take this long; 0: any time", ASK, ge=0, unit="seconds")] = 0.0
    think: Annotated[
        float,
        option(
            "time between an answer and the client's next request; a host with a share of a core recovers meanwhile",
            *(ASK, "client"),
            ge=0,
            unit="seconds",
        ),
    ] = 0.0
    memory: Annotated[
        tuple[str, ...],
        option(
            "bytes that a process may take on a host, HOST=BYTES; may be repeated",
            *(ASK, "client"),
            metavar="HOST=BYTES",
            repeat=True,
            shown="those of the hosts",
        ),
    ] = ()
    top: Annotated[int, option("ways to show", ASK, ge=1, le=1000)] = 10
    versions: Annotated[
        str, option("a profile of another machine or of other versions: refuse it, or use it", ASK, valid=VERSIONS)
    ] = VERSIONS[0]
    fit: Annotated[
        tuple[str, ...],
        option("results folders of runs by which the profile is corrected", CHECK, metavar="FOLDER,...", min_length=1),
    ] = ()
    verify: Annotated[
        str,
        option("measure: the three best and the equal split, or every two-way cut as well", CHECK, valid=VERIFY),
    ] = VERIFY[0]
    runs: Annotated[int, option("timed requests of each cell that --verify measures", CHECK, ge=1)] = 25
    out: Annotated[
        str, option("folder for advice.csv and advice.md, and what was measured", metavar="FOLDER", shown="none")
    ] = ""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Advise. Exit status: 0 done, 1 a measurement failed, 2 refused, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _main(words, prog))


def _with_value(words: Sequence[str]) -> list[str]:
    """`--verify` without a value means `--verify top`."""
    pairs = itertools.pairwise((*words, "--"))
    return [f"{word}={VERIFY[1]}" if word == "--verify" and later.startswith("-") else word for word, later in pairs]


def _main(words: Sequence[str], prog: str) -> int:
    given = Parser(prog, DESCRIPTION, EPILOG).read(AdviseOptions, _with_value(words))
    if not given.profile:
        model = f"--model {given.model} " if given.model else ""
        raise UsageError(f"--profile: advice needs one; make it with: splitbench profile {model}--out FOLDER")
    if given.verify != VERIFY[0] and not given.out:
        raise UsageError("--verify: where do the measurements go? Give --out FOLDER")
    from experiments.advise import work  # not for --help, nor for flags that are refused

    work.run(given, words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
