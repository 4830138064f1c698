"""Links and the texts that describe them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.links.link import EXAMPLE, Link, arithmetic
from transports.errors import UsageError

VALID = {
    "edge->cloud rtt:20ms,jitter:2ms,bandwidth:50Mbit": Link("edge", "cloud", False, 0.01, 0.002, 50e6),
    "edge<->cloud rtt:20ms": Link("edge", "cloud", True, 0.01),
    "a-1<->b.c_d delay:250us": Link("a-1", "b.c_d", True, 0.00025),
    "a->b rate:5Mbit": Link("a", "b", False, bandwidth=5e6),
    "a->b rate:5mBIT": Link("a", "b", False, bandwidth=5e6),
    "a->b bandwidth:2.5gbit, rtt:1S": Link("a", "b", False, 0.5, bandwidth=2.5e9),
    "  a<->b   rtt:0ms ": Link("a", "b"),
    "a<->b bandwidth:1000bit": Link("a", "b", bandwidth=1000.0),
}


@pytest.mark.parametrize("text", VALID)
def test_a_text_describes_a_link(text: str) -> None:
    assert Link.parse(text) == VALID[text]


INVALID = {
    "": "A<->B",
    "edge": "A<->B",
    "edge=cloud rtt:1ms": "A<->B",
    "edge--cloud rtt:1ms": "A<->B",
    "edge<-cloud rtt:1ms": "A<->B",
    "edge->cloud->fog rtt:1ms": "A<->B",
    "edge->c/oud rtt:1ms": "A<->B",
    "edge->edge rtt:1ms": "two different hosts",
    "edge->cloud": "is none of its words",
    "edge->cloud rtt": "is none of its words",
    "edge->cloud rtt:1ms,": "is none of its words",
    "edge->cloud bandwith:5Mbit": "did you mean 'bandwidth'",
    "edge->cloud RTT:5ms": "valid: rtt, delay, jitter, bandwidth, rate",
    "edge->cloud loss:1%": "neither lost packets nor TCP's congestion control",
    "edge->cloud rtt:1ms,rtt:2ms": "rtt is given twice",
    "edge->cloud rtt:1ms,delay:2ms": "give delay or rtt, not both",
    "edge->cloud rate:1Mbit,bandwidth:1Mbit": "give rate or bandwidth, not both",
    "edge->cloud rtt:20": "units s, ms, us",
    "edge->cloud rtt:20min": "units s, ms, us",
    "edge->cloud rtt:-20ms": "units s, ms, us",
    "edge->cloud rtt:nan": "units s, ms, us",
    "edge->cloud rtt:1e3ms": "units s, ms, us",
    "edge->cloud bandwidth:50MB": "units Gbit, Mbit, kbit, bit",
    "edge->cloud bandwidth:-5Mbit": "units Gbit, Mbit, kbit, bit",
    "edge->cloud bandwidth:0Mbit": "give 1kbit to 1000Gbit",
    "edge->cloud bandwidth:2000Gbit": "give 1kbit to 1000Gbit",
    "edge->cloud rtt:1ms,jitter:1ms": "above the delay of one direction",
    "edge->cloud jitter:1ms": "above the delay of one direction",
    "edge->cloud rtt:100s": "give 0 to 10 s",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_unusable_text_is_refused_with_what_would_be_valid(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Link.parse(text)
    line = str(refusal.value)
    assert INVALID[text] in line
    assert EXAMPLE in line
    assert "\n" not in line


def test_the_example_of_the_errors_is_valid() -> None:
    assert str(Link.parse(EXAMPLE)) == EXAMPLE


CANONICAL = {
    "a<->b delay:10ms": "a<->b rtt:20ms",
    "a->b rtt:20ms,jitter:500us": "a->b delay:10ms,jitter:500us",
    "a->b rate:5000kbit": "a->b delay:0ms,bandwidth:5Mbit",
    "a<->b rtt:1.5s": "a<->b rtt:1.5s",
}


@pytest.mark.parametrize("text", CANONICAL)
def test_a_link_has_one_text(text: str) -> None:
    assert str(Link.parse(text)) == CANONICAL[text]


@given(
    both=st.booleans(),
    delay=st.floats(1e-6, 10.0),
    share=st.floats(0.0, 1.0),
    bandwidth=st.one_of(st.just(math.inf), st.integers(1000, 10**12).map(float)),
)
def test_the_text_of_a_link_describes_the_same_link(both: bool, delay: float, share: float, bandwidth: float) -> None:
    link = Link("a", "b-2", both, round(delay, 9), round(round(delay, 9) * share / 2, 9), bandwidth)
    assert Link.parse(str(link)) == link


def test_a_link_covers_both_directions_or_one() -> None:
    assert Link.parse("a<->b rtt:1ms").directions() == (("a", "b"), ("b", "a"))
    assert Link.parse("b->a rtt:1ms").directions() == (("b", "a"),)


def test_a_message_takes_its_bits_over_the_bandwidth_and_the_delay() -> None:
    assert arithmetic(Link.parse("a<->b rtt:20ms,bandwidth:8Mbit"), 10**6) == pytest.approx(1.01)
    assert arithmetic(Link.parse("a<->b rtt:20ms"), 10**6) == pytest.approx(0.01)
