"""A study of sizes, from its options to its report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import transports
from cluster import idle, scratch
from experiments.sizes import report
from experiments.sizes.__main__ import REMOTE, SizesOptions
from experiments.sizes.bare import BARE
from experiments.sizes.measure import COLUMNS, ITEM, MB, Study, Way, measure, megabytes, ways_of
from experiments.store import environment, files, rows, samples
from partitioning.memory import check_memory
from transports.errors import UsageError
from transports.limits import MOST
from transports.process import keep_memory

SERIES = (0.01, 0.03, 0.1, 0.3, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Sizes in megabytes. Those below `--max` are measured, and `--max` itself."""
COPIES = 12
"""Memory that a message takes in both processes together, as a multiple of its size (measured with 600 MB)."""


def study_of(given: SizesOptions) -> Study:
    """The study that the options describe. Raises `UsageError` for a value that cannot be used."""
    ways = _ways(given.transport, given.codec)
    if given.bare == "on":
        ways += tuple(Way(name) for name, bare in BARE.items() if any(bare.compares(**vars(way)) for way in ways))
    up_to = [*(size for size in SERIES if size < given.max), given.max]
    sizes = _bytes(given.sizes, "--sizes") if given.sizes else _bytes(up_to, "--max")
    study = Study(
        ways, sizes, given.repeats, given.longest, given.seed, _options(given.option, ways), given.malloc, given.idle
    )
    idle.check(study.idle)
    for name in dict.fromkeys(way.transport for way in ways if way.transport not in BARE):
        transports.make(name, study.options)
    return study


def _ways(names: Sequence[str], codecs: Sequence[str]) -> tuple[Way, ...]:
    for name in names:
        if transports.load(name).addressing == "in-process":
            raise UsageError(f"--transport: {name!r} crosses no wire; valid: {', '.join(REMOTE)}")
    known = list(dict.fromkeys(codec for name in names for codec in transports.load(name).codecs))
    for codec in codecs:
        if codec not in known:
            raise UsageError(f"--codec: none of the transports has {codec!r}{transports.suggest(codec, known)}")
    for name in names:
        if not ways_of([name], codecs or None):
            valid = ", ".join(transports.load(name).codecs)
            raise UsageError(f"--codec: transport {name!r} has none of these; valid: add one of {valid}")
    return tuple(dict.fromkeys(ways_of(names, codecs or None)))


def _bytes(sizes: Sequence[float], flag: str) -> tuple[int, ...]:
    """Megabytes as bytes of whole float32 values, ascending."""
    found = sorted({int(size * MB) // ITEM * ITEM for size in sizes})
    if found[0] < ITEM or found[-1] > MOST:
        raise UsageError(f"{flag}: valid are {ITEM / MB:f} to {MOST / MB:.0f} megabytes")
    return tuple(found)


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


def run(study: Study, folder: Path, argv: Sequence[str]) -> None:
    """Measure, and write a report even if an error ends the run."""
    scratch.home()
    most = study.sizes[-1]
    check_memory(f"a tensor of {megabytes(most)} in both processes", most / MB, COPIES * MB, "MB")
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
        idle.idling(study.idle),
        environment.finishing(folder, lambda: report.build(folder)),
        rows.Writer(folder / files.SAMPLES, COLUMNS) as writer,
    ):
        measure(study, writer, lambda text: print(text, file=sys.stderr), left_out)
