"""Energy: counters of packages in a folder like the kernel's, and the counters of this machine, if it has any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.energy import ROOT, Meter
from cluster.usage import Traffic, Usage
from transports.base import Message

RANGE = 262_143_328_850


def zone(root: Path, directory: str, name: str, energy: int) -> Path:
    (made := root / directory).mkdir()
    for file, value in {"name": name, "energy_uj": energy, "max_energy_range_uj": RANGE}.items():
        (made / file).write_text(f"{value}\n")
    return made


@pytest.fixture
def two(tmp_path: Path) -> Mapping[str, Path]:
    """Counters of two packages, the cores of the first, the first by another interface, and the whole platform."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:0:0": "core",
        "intel-rapl-mmio:0": "package-0",
        "intel-rapl:2": "psys",
    }
    (tmp_path / "intel-rapl").mkdir()
    return {directory: zone(tmp_path, directory, name, 1_000_000) for directory, name in zones.items()}


def add(zones: Mapping[str, Path], joules: float) -> None:
    for path in zones.values():
        energy = path / "energy_uj"
        energy.write_text(f"{(int(energy.read_text()) + int(1e6 * joules)) % (RANGE + 1)}\n")


def test_whole_packages_are_added_up_once(two: Mapping[str, Path], tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    assert meter.joules() == 0.0
    add(two, 2.5)
    assert meter.joules() == 5.0
    add(two, 1.0)
    assert meter.joules() == 7.0


def test_a_counter_that_begins_anew_is_continued(two: Mapping[str, Path], tmp_path: Path) -> None:
    for path in two.values():
        (path / "energy_uj").write_text(f"{RANGE - 400_000}\n")
    meter = Meter(tmp_path)
    meter.joules()
    add(two, 3.0)
    assert int((two["intel-rapl:0"] / "energy_uj").read_text()) < 3_000_000
    assert meter.joules() == 6.0


def test_a_kernel_without_counters_says_nothing(tmp_path: Path) -> None:
    assert Meter(tmp_path).joules() is None
    assert Meter(tmp_path / "nowhere").joules() is None


def test_a_package_that_may_not_be_read_is_left_out(two: Mapping[str, Path], tmp_path: Path) -> None:
    """A folder replaces the file, since root may read every file."""
    (two["intel-rapl:0"] / "energy_uj").unlink()
    (two["intel-rapl:0"] / "energy_uj").mkdir()
    (two["intel-rapl-mmio:0"] / "energy_uj").unlink()
    meter = Meter(tmp_path)
    meter.joules()
    add({"one": two["intel-rapl:1"]}, 4.0)
    assert meter.joules() == 4.0


def test_this_machine_counts_or_says_nothing() -> None:
    meter = Meter()
    first, last = meter.joules(), meter.joules()
    if not list(ROOT.glob("*:*")):
        assert first is last is None
    elif first is not None and last is not None:
        assert last >= first == 0.0


@pytest.mark.parametrize("joules", [0.0, 1234.5, math.nan])
def test_it_travels_with_the_usage(joules: float) -> None:
    usage = Usage.of_this_process(Traffic())
    given = Usage(usage.cpu, usage.peak, {}, joules)
    assert ("joules" in given.fields()) == (not math.isnan(joules))
    found = Usage.of(Message("used", given.fields())).joules
    assert found == joules or (math.isnan(found) and math.isnan(joules))
