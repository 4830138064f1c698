"""The comparison of versions between machines, and of the links between hosts before and after a run."""

from __future__ import annotations

import pytest

from cluster import facts
from cluster.hosts import Host
from cluster.machines import differences, source_address
from cluster.probe import Way
from cluster.survey import changed
from transports.errors import UsageError

HERE = {**facts.versions(), "code": facts.code()}


def test_the_same_versions_differ_in_nothing() -> None:
    major, minor, _ = str(HERE["python"]).split(".")
    assert differences(HERE) == []
    assert differences(HERE | {"python": f"{major}.{minor}.99", "pandas": None}) == []


@pytest.mark.parametrize(
    ("name", "version"),
    [("python", "3.9.1"), ("tensorflow", "1.0"), ("keras", None), ("splitbench", "9.9"), ("code", "0")],
)
def test_a_version_that_matters_is_named_with_both_values(name: str, version: str | None) -> None:
    (found,) = differences(HERE | {name: version})
    told = "3.9" if name == "python" else version or "is missing"
    assert found.startswith(f"{name} {told} (here ")


def test_a_host_that_tells_nothing_differs_in_everything() -> None:
    assert len(differences({})) == 5


WAY = Way(rtt=0.010, bandwidth=1e8)
CHANGES = [
    (WAY, ""),
    (Way(0.0119, 1.19e8), ""),
    (Way(0.0121, 1e8), "round trip from client to edge 10 ms, then 12.1 ms"),
    (Way(0.0079, 1e8), "round trip from client to edge 10 ms, then 7.9 ms"),
    (Way(0.010, 0.79e8), "bandwidth from client to edge 100 Mbit/s, then 79 Mbit/s"),
    (Way(0.010, 1.21e8), "bandwidth from client to edge 100 Mbit/s, then 121 Mbit/s"),
]


@pytest.mark.parametrize(("after", "text"), CHANGES)
def test_a_way_that_has_changed_is_named(after: Way, text: str) -> None:
    ends = ("client", "edge")
    found = changed({ends: WAY}, {ends: after})
    assert found == (f"the links have changed during the run: {text}" if text else "")


def test_noise_and_what_the_probe_itself_limits_are_no_change() -> None:
    ends = ("client", "edge")
    assert changed({ends: Way(1e-4, 9e9)}, {ends: Way(2.5e-4, 4e9)}) == ""
    assert "bandwidth" in changed({ends: Way(1e-4, 9e9)}, {ends: Way(1e-4, 1e9)})


def test_the_address_towards_a_host_is_found_or_the_host_is_named() -> None:
    assert source_address(Host(name="self", address="127.0.0.1")) == "127.0.0.1"
    with pytest.raises(UsageError, match=r"host pi: 'nowhere\.invalid' cannot be reached from here: .*its `address`"):
        source_address(Host(name="pi", address="nowhere.invalid"))
