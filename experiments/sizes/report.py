"""Derives summary, reports and sizes.svg of `experiments.sizes`; the same samples give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from cluster.idle import IDLE
from experiments.reports import charts, sections
from experiments.reports.html import Page
from experiments.reports.labels import transport_title
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.sizes.bare import BARE
from experiments.sizes.growth import Curve, exponent, fit
from experiments.sizes.measure import COLUMNS, MB, Study, Way, megabytes
from experiments.sizes.ratios import ratios
from experiments.store import environment, files, rows
from experiments.store.files import replace_file
from experiments.store.rows import Number
from transports.errors import UsageError

SUMMARY = (
    *("way", "transport", "codec", "send", "bytes", "n", "mean", "std", "median"),
    *("megabytes_per_second", "exponent", "wire_bytes"),
)
FITTED_FROM = MB
"""The fit starts at this many bytes, since the fixed cost of a call dominates smaller messages."""

STREAM, UNARY = Way("grpc", send="stream"), Way("grpc", send="unary")
COMPARED = ((STREAM, UNARY), (Way("rpyc"), Way("rpyc-tuned")), (Way("rpyc-tuned"), UNARY))
"""Pairs of ways whose ratio of medians is shown if both were measured."""

PARTS: tuple[tuple[str, Callable[[Curve, float], str]], ...] = (
    ("fixed (ms)", lambda curve, _: number(1e3 * curve.fixed, 3)),
    ("for each MB (ms)", lambda curve, _: number(1e3 * curve.linear, 3)),
    ("for each MB squared (ms)", lambda curve, _: number(1e3 * curve.quadratic, 3)),
    ("quadratic part at the largest size (%)", lambda curve, most: f"{100 * curve.quadratic_share(most):.0f}"),
)
"""Rows of the table of fits: label -> text, from a curve and its largest measured size in megabytes."""

Medians = Mapping[tuple[str, int], float]


def read(folder: Path) -> pd.DataFrame:
    """The samples. Raises `UsageError` for a file that is missing or has other columns."""
    whole = dict.fromkeys(("bytes", "round", "run"), Number(whole=True))
    numbers = {**whole, "seconds": Number(positive=True), "wire_bytes": Number(may_be_empty=True)}
    return rows.read(folder / files.SAMPLES, COLUMNS, numbers)


def summarise(samples: pd.DataFrame, ways: Sequence[Way]) -> pd.DataFrame:
    """A row with the columns `SUMMARY` for each way and size: in the order of `ways`, sizes ascending.

    `std` is the sample standard deviation. `megabytes_per_second` is the payload of both directions over the median.
    `exponent` is the growth exponent from the next smaller size: 1 is linear, 2 quadratic. `wire_bytes` is a median.
    """
    made = []
    for way in ways:
        smaller: tuple[int, float] | None = None
        for size, group in samples[samples["way"] == way.name].groupby("bytes"):
            row = _row(way, int(str(size)), group)
            row["exponent"] = exponent([smaller, (row["bytes"], row["median"])]) if smaller else math.nan
            smaller = row["bytes"], row["median"]
            made.append(row)
    return pd.DataFrame(made, columns=list(SUMMARY))


def _row(way: Way, size: int, group: pd.DataFrame) -> dict[str, Any]:
    seconds = group["seconds"]
    median = seconds.median()
    numbers = {"n": len(group), "mean": seconds.mean(), "std": seconds.std(ddof=1), "median": median}
    rest = {"megabytes_per_second": 2 * size / MB / median, "wire_bytes": group["wire_bytes"].median()}
    return {"way": way.name, **vars(way), "bytes": size, **numbers, **rest}


def medians(summary: pd.DataFrame) -> Medians:
    """(way, size) -> median seconds."""
    pairs = zip(summary["way"], summary["bytes"], strict=True)
    return {(str(way), int(size)): float(value) for (way, size), value in zip(pairs, summary["median"], strict=True)}


def wins_from(found: Medians, one: Way, other: Way) -> int | None:
    """The smallest size from which on `one` is faster than `other` at every common size; `None` if there is none."""
    sizes = sorted(size for way, size in found if way == one.name and (other.name, size) in found)
    slower = [size for size in sizes if found[one.name, size] >= found[other.name, size]]
    return next((size for size in sizes if not slower or size > slower[-1]), None)


def build(folder: Path) -> Path:
    """Write summary.csv, sizes.svg, report.md and report.html into `folder`; return the path of report.md.

    Raises `UsageError` if `folder` holds no such results, and `WriteError` if a file cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give one that python -m experiments.sizes wrote")
    record = environment.read(folder)
    if record["experiment"].get("kind") != "sizes":
        raise UsageError(f"{folder} holds another experiment; use python -m experiments.report {folder}")
    study = Study.from_record(record["experiment"])
    samples = read(folder)
    summary = summarise(samples, study.ways)
    replace_file(folder / files.SUMMARY, summary.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    drawn = "Median seconds by the size of the tensor, a line for each transport"
    chart = sections.picture(folder / files.SIZES, drawn, lambda: charts.growth(summary))
    return _page(record, study, samples, summary, chart).write(folder)


def _page(
    record: Mapping[str, Any], study: Study, samples: pd.DataFrame, summary: pd.DataFrame, chart: list[str]
) -> Page:
    found = medians(summary)
    ways = [way for way in study.ways if way.name in set(summary["way"])]
    compared = [pair for pair in COMPARED if {*pair} <= {*ways}]
    settings = {"Seed": str(study.seed), "Memory": MEMORY[study.malloc], "Options": sections.pairs(study.options)}
    if study.idle != IDLE[0]:
        settings["Idle processors"] = study.idle
    left_out = [f"- {line(name)} was left out {line(reason)}." for name, reason in record.get("left_out", {}).items()]
    parts = {
        "banner": sections.banner(record, samples.attrs.get("note", "")),
        "chart": chart,
        "medians": ["## Median seconds", "", *by_way(found, ways)] if found else [],
        "left out": ["## Left out", "", *left_out] if left_out else [],
        "growth": _growth(found, ways),
        "curves": _curves(found, ways),
        "ratios": _ratios("Side by side", samples, compared, _crossing(found, compared)),
        "bare": _ratios("Beside each library alone", samples, _bare_pairs(ways), _bare_notes(ways)),
        "wire": _wire(summary, ways),
        "notes": [
            f"Echoes of one float32 tensor by another process on this machine, in {study.repeats} rounds"
            f"{FRESH[study.fresh]}. In a round every transport and size has one turn, in shuffled order."
        ],
        "reading": HOW_TO_READ,
        "environment": sections.machine(record, settings),
    }
    asked = f"How does the time of a message grow with its size, over {len(ways)} ways to send it?"
    return Page("How time grows with the message", asked, _answer(found, ways), "", parts)


def _answer(found: Medians, ways: Sequence[Way]) -> list[str]:
    """The fastest and the slowest way at the smallest and at the largest size that all ways were measured at."""
    common = [size for size in _sizes(found) if all((way.name, size) in found for way in ways)]
    if not common:
        return ["Nothing was timed." if not found else "No size was timed over every way."]
    return [_extremes(found, ways, size) for size in dict.fromkeys((common[0], common[-1]))]


def _extremes(found: Medians, ways: Sequence[Way], size: int) -> str:
    best, *_, worst = sorted(ways, key=lambda way: found[way.name, size]) * 2
    milliseconds = [number(1e3 * found[way.name, size], 3) for way in (best, worst)]
    if len(ways) == 1:
        return f"{megabytes(size)} over {title(best)} take {milliseconds[0]} ms there and back (median)."
    fastest = f"{title(best)} is the fastest ({milliseconds[0]} ms there and back, median)"
    return f"{megabytes(size)}: {fastest}, {title(worst)} the slowest ({milliseconds[1]} ms)."


FRESH = {True: ", each with a new process", False: ""}
MEMORY = {"keep": "the C library keeps freed memory", "default": "the C library's default"}


def title(way: Way) -> str:
    """`"gRPC stream"`, as the head of a column."""
    return way.name.replace(way.transport, transport_title(way.transport), 1)


def _sizes(found: Medians) -> list[int]:
    return sorted({size for _, size in found})


def _by_size(head: str, sizes: Sequence[int], columns: Mapping[str, Callable[[int], float]]) -> list[str]:
    body = [[megabytes(size), *(number(value(size), 4) for value in columns.values())] for size in sizes]
    return table([head, *columns], body)


def by_way(found: Medians, ways: Sequence[Way]) -> list[str]:
    """The table of `found`: a row for each size, a column for each way."""
    return _by_size("Tensor", _sizes(found), {title(way): partial(_of, found, way) for way in ways})


def _of(found: Medians, way: Way, size: int) -> float:
    return found.get((way.name, size), math.nan)


def _growth(found: Medians, ways: Sequence[Way]) -> list[str]:
    """Exponents from each size to the next, and fitted over the large sizes."""
    sizes = _sizes(found)
    body = [
        [f"{megabytes(small)} to {megabytes(large)}", *(_exponent(found, way, (small, large)) for way in ways)]
        for small, large in pairwise(sizes)
    ]
    large = [size for size in sizes if size >= FITTED_FROM]
    if len(large) > 2:
        body.append([f"fitted from {megabytes(large[0])} on", *(_exponent(found, way, large) for way in ways)])
    head = ["Growth exponent", *(title(way) for way in ways)]
    return ["## Growth", "", "1 is linear, 2 quadratic.", "", *table(head, body)] if body else []


def _curves(found: Medians, ways: Sequence[Way]) -> list[str]:
    """The fixed, linear and quadratic part of each way's time."""
    points = {
        way: [(size / MB, found[way.name, size]) for size in _sizes(found) if (way.name, size) in found] for way in ways
    }
    curves = {way: curve for way in ways if (curve := fit(points[way]))}
    body = [[label, *(write(curve, points[way][-1][0]) for way, curve in curves.items())] for label, write in PARTS]
    head = ["Part", *(title(way) for way in curves)]
    return ["## Parts of the seconds", "", *table(head, body)] if curves else []


def _exponent(found: Medians, way: Way, sizes: Sequence[int]) -> str:
    points = [(size, found[way.name, size]) for size in sizes if (way.name, size) in found]
    return f"{exponent(points):.2f}" if len(points) > 1 else ABSENT


def _ratios(heading: str, samples: pd.DataFrame, pairs: Sequence[tuple[Way, Way]], lines: Sequence[str]) -> list[str]:
    """A section with the ratio of each pair by size, and then `lines`; empty without pairs."""
    return [f"## {heading}", "", *_by_pair(samples, pairs), "", *lines] if pairs else []


def _by_pair(samples: pd.DataFrame, pairs: Sequence[tuple[Way, Way]], digits: int = 4) -> list[str]:
    """A table with a row for each pair, and a column for each size."""
    sizes = sorted({int(size) for size in samples["bytes"]})
    body = []
    for one, other in pairs:
        known = ratios(samples, one.name, other.name)
        texts = [known[size].text(digits) if size in known else ABSENT for size in sizes]
        body.append([f"{title(one)} / {title(other)}", *texts])
    return table(["Ratio (95 % interval)", *map(megabytes, sizes)], body)


def beside_libraries(samples: pd.DataFrame, ways: Sequence[Way]) -> list[str]:
    """The table of each transport's time as a multiple of its library's own echo."""
    return _by_pair(samples, _bare_pairs(ways), 3)


def _bare_pairs(ways: Sequence[Way]) -> list[tuple[Way, Way]]:
    """Each transport, with the echo of its library alone."""
    names = {way.transport for way in ways} & BARE.keys()
    return [(way, Way(name)) for way in ways for name in sorted(names) if BARE[name].compares(**vars(way))]


BARE_IS = (
    "A bare echo sends the bytes of the tensor with the library alone, as its users write it, without method, name or "
    "limit: bare-grpc sends bytes without protobuf, bare-grpc-stub a generated message with one bytes field, bare-rpyc "
    "a tuple of dtype, shape and bytes with RPyC's defaults, bare-rpyc-tuned the same with neither compression nor "
    "small pieces, and bare-rest sends bytes without JSON."
)
BARE_JSON = "bare-rest-json sends a list of numbers, and bare-rest-b64 base64 in JSON."


def _bare_notes(ways: Sequence[Way]) -> list[str]:
    json = any(way.transport in ("bare-rest-json", "bare-rest-b64") for way in ways)
    return [f"{BARE_IS} {BARE_JSON}" if json else BARE_IS]


def _crossing(found: Medians, pairs: Sequence[tuple[Way, Way]]) -> list[str]:
    if (STREAM, UNARY) not in pairs:
        return []
    size = wins_from(found, STREAM, UNARY)
    if size is None:
        return ["`grpc.send=stream` is not faster than `unary` at the largest size."]
    return [f"`grpc.send=stream` is faster than `unary` from {megabytes(size)} on, at each measured size."]


def _wire(summary: pd.DataFrame, ways: Sequence[Way]) -> list[str]:
    crossed = summary[summary["wire_bytes"].notna()]
    if crossed.empty:
        return []
    shares = {
        (str(row["way"]), int(row["bytes"])): row["wire_bytes"] / (2 * row["bytes"])
        for row in crossed.to_dict("records")
    }
    return ["## Bytes on the wire / payload", "", *by_way(shares, ways)]


HOW_TO_READ = [
    "## How to read this",
    "",
    "- **Seconds** are wall-clock time from a tensor in the caller's memory to its copy in the caller's memory: "
    "written, sent, read and written again by the other process, sent back, and read. 1 MB = 1000000 bytes.",
    "- The tensor is normally distributed noise; zlib, RPyC's default, compresses it to nine tenths.",
    "- A **growth exponent** is the slope between two sizes on logarithmic axes. Below a megabyte the fixed cost of a "
    "call flattens it. The exponent of a single step is as noisy as its two medians.",
    "- **Parts of the seconds**: fixed + linear x MB + quadratic x MB squared, each at least zero, fitted to the "
    "medians by least squares of relative errors. A quadratic part shows in the exponents only once it dominates. "
    "Memory that no longer fits a cache bends every curve: compare the figures per MB squared with each other.",
    "- A **ratio** is the geometric mean of the rounds' ratios of medians. Its interval, Student's t, holds over the "
    "rounds: processes differ more from each other than the echoes of one process do.",
    "- **Bytes on the wire** is the median of the bytes that the loopback interface counted during a call, in both "
    "directions, with headers and acknowledgements. The payload is the tensor in both directions.",
]
