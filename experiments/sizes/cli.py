"""`python -m experiments.sizes`: how the time of a message grows with its size, over each transport.

One float32 tensor goes to another process and back, over each transport in each of its codecs, and over gRPC both in
one piece (`unary`) and in chunks (`stream`). The results answer:
  - What does a transport cost for a small message, and per megabyte?
  - Is the growth linear, or faster? RPyC's defaults copy the rest of a message for each 64 kB of it, which is
    quadratic; rpyc-tuned is the same protocol without these defaults.
  - From which size on is `grpc.send=stream` faster than `unary`?

Samples are written one by one; summary.csv, report.md and sizes.svg are derived from them at the end of a run, or later
with `--report FOLDER`.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import transports
from experiments.measure import memory
from experiments.sizes import report as sizes_report
from experiments.sizes.bench import COLUMNS, ITEM, MB, Study, Way, measure, megabytes, ways_of
from experiments.spec.flags import timestamp
from experiments.store import environment, files, rows, samples
from transports.errors import SplitbenchError, UsageError
from transports.limits import MOST
from transports.process import MALLOC, keep_memory

SERIES = (0.01, 0.03, 0.1, 0.3, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Megabytes; the sizes below `--max` are measured, and then `--max` itself."""
COPIES = 12
"""Memory that a message takes in both processes together, as a multiple of its size (measured with 600 MB)."""

EPILOG = """\
examples:
  python -m experiments.sizes                                    # 0.01 to 64 MB, over everything
  python -m experiments.sizes --transport grpc,rpyc-tuned --max 600 --out results/large
  python -m experiments.sizes --transport grpc --sizes 1,1.5,2,3,4 --repeats 20
  python -m experiments.sizes --transport rpyc --max 64 --longest 60   # the defaults, to the end
  python -m experiments.sizes --report results/large

exit status: 0 done; 1 the run failed, samples are kept; 2 unusable value, nothing was started; 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one study. Exit status: 0 done, 1 failed, 2 refused before the start, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        given = parser().parse_args(words)
        if given.report is None:
            folder = Path(given.out or f"results/{timestamp()}-sizes")
            _run(parse(given), folder, words)
        else:
            folder = Path(given.report)
        written = sizes_report.build(folder)
        Console().print(f"results: {folder} (begin with {written.name})", soft_wrap=True)
        return 0
    except (SplitbenchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def parse(given: argparse.Namespace) -> Study:
    """The study that the flags describe. Raises `UsageError` for an unusable value."""
    ways = _ways(given.transport, given.codec)
    if given.sizes is None:
        most = _number("--max", given.max)
        sizes = _bytes([size for size in SERIES if size < most] + [most], "--max")
    else:
        sizes = _bytes([_number("--sizes", word) for word in given.sizes.split(",")], "--sizes")
    repeats, longest, seed = (_number(f"--{name}", vars(given)[name]) for name in ("repeats", "longest", "seed"))
    if repeats < 1 or repeats != int(repeats):
        raise UsageError(f"--repeats: {given.repeats} is no count; give 1 or more")
    if longest <= 0:
        raise UsageError(f"--longest: {given.longest} is too small; give more than 0 seconds")
    if seed < 0 or seed != int(seed):
        raise UsageError(f"--seed: {given.seed} is no seed; give a whole number from 0 on")
    study = Study(ways, sizes, int(repeats), longest, int(seed), _options(given.option, ways), given.malloc)
    for name in dict.fromkeys(way.transport for way in ways):
        transports.make(name, study.options)
    return study


def _ways(names: str, codecs: str | None) -> tuple[Way, ...]:
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if transports.load(name).local:
            raise UsageError(f"--transport: {name!r} crosses no wire; valid: {', '.join(_remote())}")
    wanted = [codec.strip() for codec in codecs.split(",")] if codecs is not None else None
    known = list(dict.fromkeys(codec for name in chosen for codec in transports.load(name).codecs))
    for codec in wanted or ():
        if codec not in known:
            raise UsageError(f"--codec: none of the transports has {codec!r}{transports.suggest(codec, known)}")
    for name in chosen:
        if not ways_of([name], wanted):
            valid = ", ".join(transports.load(name).codecs)
            raise UsageError(f"--codec: transport {name!r} has none of these; valid: add one of {valid}")
    return tuple(dict.fromkeys(ways_of(chosen, wanted)))


def _remote() -> list[str]:
    return [name for name in transports.NAMES if name != "none"]


def _bytes(sizes: Sequence[float], flag: str) -> tuple[int, ...]:
    """Megabytes as bytes of whole float32 values, ascending."""
    found = sorted({int(size * MB) // ITEM * ITEM for size in sizes})
    if found[0] < ITEM or found[-1] > MOST:
        raise UsageError(f"{flag}: valid are {ITEM / MB:f} to {MOST / MB:.0f} megabytes")
    return tuple(found)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{flag}: {text!r} is no number")
    return value


def _options(texts: Sequence[str], ways: Sequence[Way]) -> dict[str, str]:
    options = transports.parse_options(texts)
    names = list(dict.fromkeys(way.transport for way in ways))
    for key in options:
        name, _, own = key.partition(".")
        if name not in names:
            raise UsageError(f"--option {key}: {name!r} is not measured{transports.suggest(name, names)}")
        if own == "send" and any(way.send for way in ways if way.transport == name):
            raise UsageError(f"--option {key}: every value of it is measured; leave it out")
    return options


def _run(study: Study, folder: Path, argv: Sequence[str]) -> None:
    """Measure, and write a report even if an error ends the run."""
    most = study.sizes[-1]
    memory.check(f"a tensor of {megabytes(most)} in both processes", most / MB, COPIES * MB, "MB")
    samples.claim(folder)
    environment.begin(folder, study.record(), argv)
    missing: dict[str, str] = {}
    if study.malloc == "keep":
        keep_memory()

    def left_out(way: Way, reason: str) -> None:
        missing[way.name] = reason
        environment.update(folder, left_out=missing)
        print(f"{way.name} is left out {reason}", file=sys.stderr)

    with (
        environment.finishing(folder, lambda: sizes_report.build(folder)),
        rows.Writer(folder / files.SAMPLES, COLUMNS) as writer,
    ):
        measure(study, writer, lambda text: print(text, file=sys.stderr), left_out)


def parser() -> argparse.ArgumentParser:
    """A parser whose values are texts; `parse` checks them."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.sizes",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--transport", default=",".join(_remote()), metavar="NAME,...", help="default: %(default)s")
    add("--codec", metavar="NAME,...", help="default: all that the transports have")
    add("--max", default="64", metavar="MB", help="the largest size, after 0.01, 0.03, ... (default: %(default)s)")
    add("--sizes", metavar="MB,...", help="these sizes instead")
    add("--repeats", default="5", metavar="N", help="turns of each transport and size (default: %(default)s)")
    add(
        "--longest",
        default="5",
        metavar="SECONDS",
        help="leave out sizes whose calls take longer (default: %(default)s)",
    )
    add("--seed", default="0", metavar="N", help="seed of the noise and of the order (default: %(default)s)")
    add("--option", action="append", default=[], metavar="NAME.KEY=VALUE", help="an option of one transport")
    add("--malloc", choices=MALLOC, default=MALLOC[0], help="keep freed memory for the next message (default: keep)")
    add("--out", metavar="FOLDER", help="where results go (default: results/<UTC timestamp>-sizes)")
    add("--report", metavar="FOLDER", help="derive the report of earlier results again; measures nothing")
    return made


if __name__ == "__main__":
    sys.exit(main())
