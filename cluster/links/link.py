"""What a network link does to messages, and the text that describes it.

    edge<->cloud rtt:20ms,jitter:2ms,bandwidth:50Mbit      both directions
    edge->cloud delay:10ms,rate:5Mbit                      this direction alone

Words, in any order, each at most once:
  - `rtt`: the round trip. Each direction that the link covers delays by half of it.
  - `delay`: the delay of one direction, in place of `rtt`.
  - `jitter`: the delay of each piece varies by up to this time in both directions, uniformly distributed.
  - `bandwidth`, or `rate`: bits per second of each direction. Without it, nothing limits the rate.

`delay`, `jitter` and `rate` mean what they mean to Linux's netem. Units need not be in the case written here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NoReturn

from transports.errors import UsageError, suggest

EXAMPLE = "edge<->cloud rtt:20ms,jitter:2ms,bandwidth:50Mbit"
NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
ENDS = re.compile(rf"({NAME})(<->|->)({NAME})")
VALUE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([A-Za-z]+)")

TIMES = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6")}
"""Unit -> seconds; the largest unit first."""
RATES = {"Gbit": Decimal("1e9"), "Mbit": Decimal("1e6"), "kbit": Decimal("1e3"), "bit": Decimal(1)}
"""Unit -> bits per second; the largest unit first."""
WORDS: Mapping[str, Mapping[str, Decimal]] = {
    "rtt": TIMES,
    "delay": TIMES,
    "jitter": TIMES,
    "bandwidth": RATES,
    "rate": RATES,
}
"""Word -> its units."""
SAME = {"delay": "rtt", "rate": "bandwidth"}
"""Word -> the word that it replaces."""

MOST_DELAY = 10.0
"""Longest delay of one direction in seconds; far above the delay of a satellite link."""
LEAST_BANDWIDTH, MOST_BANDWIDTH = 1e3, 1e12
"""Smallest and largest bandwidth in bits per second."""


@dataclass(frozen=True)
class Link:
    """A link from host `source` to host `target`. Raises `UsageError` for values that no link can have."""

    source: str
    target: str
    both: bool = True
    """Whether the link also covers the direction from `target` to `source`."""
    delay: float = 0.0
    """Seconds for which every byte travels in one direction."""
    jitter: float = 0.0
    """Seconds by which the delay varies: a piece travels for `delay - jitter` to `delay + jitter`."""
    bandwidth: float = math.inf
    """Bits per second of each direction."""

    def __post_init__(self) -> None:
        ends = f"{self.source}{'<->' if self.both else '->'}{self.target}"
        if not ENDS.fullmatch(ends):
            _refuse(ends, "names of hosts have letters, digits, '-', '_' and '.'")
        if self.source == self.target:
            _refuse(ends, "a link joins two different hosts")
        if not 0.0 <= self.delay <= MOST_DELAY:
            _refuse(ends, f"a delay of {self.delay:g} s in one direction; give 0 to {MOST_DELAY:g} s (rtt: twice that)")
        if not 0.0 <= self.jitter <= self.delay:
            least = f"give an rtt of at least twice the jitter, or a jitter up to {self.delay:g} s"
            _refuse(
                ends, f"a jitter of {self.jitter:g} s is above the delay of one direction, {self.delay:g} s; {least}"
            )
        if not (LEAST_BANDWIDTH <= self.bandwidth <= MOST_BANDWIDTH or self.bandwidth == math.inf):
            _refuse(ends, f"a bandwidth of {self.bandwidth:g} bit/s; give 1kbit to 1000Gbit")

    @classmethod
    def parse(cls, text: str) -> Link:
        """The link that `text` describes. Raises `UsageError`, which says what would be valid."""
        ends, _, words = text.strip().partition(" ")
        match = ENDS.fullmatch(ends)
        if not match:
            _refuse(text, "give the two hosts as A<->B (both directions) or A->B (this direction), a space, and words")
        values = _values(text, words.strip())
        delay = values.get("delay", values.get("rtt", Decimal(0)) / 2)
        bandwidth = values.get("bandwidth", values.get("rate", Decimal("inf")))
        jitter = values.get("jitter", Decimal(0))
        source, arrow, target = match.groups()
        return cls(source, target, arrow == "<->", float(delay), float(jitter), float(bandwidth))

    def __str__(self) -> str:
        """The text that `parse` turns into an equal link: `rtt` of both directions, or `delay` of one."""
        delay = _written(_exact(self.delay) * 2 if self.both else _exact(self.delay), TIMES)
        words = [f"{'rtt' if self.both else 'delay'}:{delay}"]
        if self.jitter:
            words.append(f"jitter:{_written(_exact(self.jitter), TIMES)}")
        if self.bandwidth != math.inf:
            words.append(f"bandwidth:{_written(_exact(self.bandwidth), RATES)}")
        return f"{self.source}{'<->' if self.both else '->'}{self.target} {','.join(words)}"

    def directions(self) -> tuple[tuple[str, str], ...]:
        """The ordered pairs (source, target) that the link covers."""
        there, back = (self.source, self.target), (self.target, self.source)
        return (there, back) if self.both else (there,)


def arithmetic(link: Link, nbytes: int) -> float:
    """Seconds from the start of sending a message of `nbytes` over an idle `link` until its last byte arrives."""
    return nbytes * 8 / link.bandwidth + link.delay


def _values(text: str, words: str) -> dict[str, Decimal]:
    """Word -> its value in seconds or bits per second, of the `words` of the link `text`."""
    values: dict[str, Decimal] = {}
    for item in words.split(","):
        word, colon, value = item.strip().partition(":")
        if word == "loss":
            _refuse(text, "loss cannot be imposed: the relay models neither lost packets nor TCP's congestion control")
        if not colon or word not in WORDS:
            _refuse(text, f"{item.strip()!r} is none of its words{suggest(word, WORDS)}, each as WORD:VALUE")
        if word in values:
            _refuse(text, f"{word} is given twice; give it once")
        values[word] = _value(text, word, value.strip())
    for word, other in SAME.items():
        if word in values and other in values:
            _refuse(text, f"give {word} or {other}, not both")
    return values


def _value(text: str, word: str, value: str) -> Decimal:
    units = {unit.lower(): size for unit, size in WORDS[word].items()}
    match = VALUE.fullmatch(value)
    if not match or match[2].lower() not in units:
        _refuse(text, f"{word}:{value} is no value; give a number and one of the units {', '.join(WORDS[word])}")
    return Decimal(match[1]) * units[match[2].lower()]


def _exact(value: float) -> Decimal:
    """The shortest decimal that reads back as the same float, so that a printed link reads back as an equal link."""
    return Decimal(repr(value))


def _written(value: Decimal, units: Mapping[str, Decimal]) -> str:
    """`Decimal("0.02")` in `TIMES` -> `"20ms"`: in the largest unit that gives a number of at least 1."""
    unit = next((unit for unit, size in units.items() if value >= size), "ms" if units is TIMES else "bit")
    number = f"{value / units[unit]:f}"
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{unit}"


def _refuse(text: str, reason: str) -> NoReturn:
    raise UsageError(f"link {text[:100]!r}: {reason}; for example {EXAMPLE!r}")
