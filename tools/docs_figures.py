"""The figures in the sentences of README.md and docs/: each is derived from results/reference, or its source is stated.

`docs_sentences.DERIVED` has the sentences with derived figures; a page states a value with any number of decimals.
`STATED` has the sentences whose figures do not come from results/reference: settings, and measurements whose source the
sentence names. `python -m tools.docs_tables` writes figures as it writes tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tools.docs_sentences import DERIVED

FIGURE = re.compile(r"(?<![\w.-])(?:\d+\.\d+|\d+(?= (?:(?:ms|s|MB|kB|times)\b|%)))(?![\w.]*\w)")
"""A number with decimals or a unit, which a page has to derive or to explain."""

EVERYWHERE = ("95 %",)
STATED: Mapping[str, Sequence[str]] = {
    "README.md": ("Python 3.11 to 3.13",),
    "results.md": (
        "on which a local model took 0.08 s (eager) and 0.008 s (frozen)",
        "near the document's, whose local model took 0.55 s. An earlier run of this experiment on a faster machine "
        "(0.08 s local) gave 3.6 for gRPC and 12 for RPyC, and a rerun of the document's implementation (0.09 s local) "
        "3.1 and 8.5. RPyC adds {} s here and added 0.8 s there",
        "A rerun of the document's implementation gave 1.4 to 1.6 for gRPC",
        "The document's 1.15 was measured beside a local model of 0.524 s",
        "timed with `python -m tests.cluster.model_servers.bench_stages FOLDER` for an exported plan (median of 100, "
        "fastest in parentheses): 33 ms (20)",
        "An earlier run on a faster machine (0.07 s local instead of {}) gave 1.5 to 1.6",
        "The jump at 0.1 MB",
        "carries 32 MB in",
        "**Beyond 32 MB** transports grow faster",
        "The C library maps blocks above 32 MB anew",
        "Below 32 MB `--malloc keep` (the default) reuses them; `--malloc default` moves the step to 16 MB",
        "slower than one message up to 64 MB, and faster from 256 MB on",
    ),
    "where-to-cut.md": (
        "round trips of 1, 20 and 200 ms",
        "At 200 ms, whatever sends",
        "At 20 ms the device alone",
        "At 1 ms and 1000 Mbit/s",
        "ran at full speed for 5 of every 20 ms",
        "now it is 1 of every 4",
    ),
    "architecture.md": ("with servers that let calls wait as gRPC's own do, and a deadline of 2 s",),
    "machines.md": (
        "with the same Python (3.11 to 3.13)",
        "A change of a link by more than 20 %",
        "over a real link of 200 ms",
        "It costs some time of its own, about 0.1 ms",
        "within 3 %",
    ),
    "running.md": ("99 % of them at most",),
    "security.md": ("TLS 1.2 or newer", "(60 s unless set)"),
    "tracing.md": (
        "says that a cell takes 1.9 times as long",
        "Link 1 has a round trip of 1 ms and 1 Gbit/s, link 2 one of 20 ms and 50 Mbit/s",
    ),
    "transports.md": ("HTTP/1.1", "more than 100 kB", "gRPC's own limit of 4 MB"),
    "zoo.md": ("(Keras 3.15)", "1.6 to 12 times fewer bytes"),
    "methodology.md": (
        "within ±5 %",
        "at least 93 % of 500 such intervals",
        "Packets of the loopback interface take up to 64 kB. Ethernet's headers would add about 4 %",
    ),
}
"""Name of a page -> its sentences whose figures are settings, or sizes that were asked for, or name their source."""


def fill(page: str, text: str) -> str:
    """`text` of the page with that name, with the current value of each derived figure, as precise as its old value.

    Raises `LookupError` if a sentence is not in the text.
    """
    for sentence, values in DERIVED.get(page, list)():
        found = pattern(sentence).search(text)
        if found is None:
            raise LookupError(f"{page} lacks the sentence {sentence!r}: change it in tools.docs_sentences, too")
        for number, value in reversed([*enumerate(values, 1)]):
            start, end = found.span(number)
            decimals = len(found[number].partition(".")[2])
            text = f"{text[:start]}{value:.{decimals}f}{text[end:]}"
    return text


def uncovered(page: str, text: str) -> list[tuple[str, str]]:
    """The figures outside of tables and code that neither `DERIVED` nor `STATED` has, each with its context."""
    prose = re.sub(r"```.*?```|^\|.*?$|<!--.*?-->", "", text, flags=re.S | re.M)
    known = [*(sentence for sentence, _ in DERIVED.get(page, list)()), *STATED.get(page, ()), *EVERYWHERE]
    for start, end in [found.span() for sentence in known for found in pattern(sentence).finditer(prose)]:
        prose = prose[:start] + re.sub(r"\d", "#", prose[start:end]) + prose[end:]
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose)
    around = [(found[0], prose[max(0, found.start() - 40) : found.end() + 40]) for found in FIGURE.finditer(prose)]
    return [(figure, " ".join(words.split())) for figure, words in around]


def pattern(sentence: str) -> re.Pattern[str]:
    """Finds the sentence, broken into lines anywhere."""
    words = re.escape(sentence).replace(r"\ ", r"\s+")
    return re.compile(words.replace(r"\{\}", r"(\d+(?:\.\d+)?)"))
