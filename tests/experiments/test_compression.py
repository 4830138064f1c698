"""The section about packed tensors: break-even bandwidths, the tables, and cells without an unpacked twin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.reports import compression
from experiments.reports.answer import answer
from experiments.reports.report import summary_of
from experiments.spec.experiment import Cell, Experiment
from experiments.store import samples
from experiments.store.samples import Sample, Writer
from tests.experiments.common import tables_of
from transports import packing

CELL = Cell(transport="tcp", mode="submodel", servers=2, on="edge+cloud")
SLOW, FAST = ("edge<->cloud rtt:5ms,bandwidth:5Mbit", "edge<->cloud rtt:5ms,bandwidth:1000Mbit")


def written(
    folder: Path, seconds: Mapping[tuple[str, str], float], packed: Mapping[str, float]
) -> tuple[Experiment, pd.DataFrame]:
    """Five rounds of each cell. The payload is 1 MB; packing takes 4 ms and unpacking 6 ms, with 1 % of noise."""
    with Writer(folder) as writer:
        for place, ((wire, link), mean) in enumerate(seconds.items()):
            cell = replace(CELL, wire=wire, link=link)
            for run in range(25):
                noise = 1 + 0.01 * (run // 5 - 2)
                sample = Sample(cell, run, mean * noise, 100 * run + place, 0.02, payload_bytes=10**6, round=run // 5)
                if wire != "none":
                    spent = {"pack_seconds": 0.004 * noise, "unpack_seconds": 0.006 * noise}
                    lossy = {} if packing.is_lossless(wire) else {"cosine": 0.8, "top1": 0.5}
                    sample = replace(sample, raw_bytes=1e6, packed_bytes=packed[wire], **spent, **lossy)
                writer.append(sample)
    cells = tuple(replace(CELL, wire=wire, link=link) for wire, link in seconds)
    return Experiment(cells), samples.read(folder)


SECONDS = {("none", SLOW): 2.0, ("none", FAST): 0.1, ("zstd", SLOW): 1.0, ("zstd", FAST): 0.15, ("int8", SLOW): 0.5}
BYTES = {"zstd": 5e5, "int8": 2.5e5}


def test_the_break_even_bandwidth_is_bits_saved_over_seconds_spent(tmp_path: Path) -> None:
    lossless, lossy = compression.packings(*written(tmp_path, SECONDS, BYTES))
    for found, expected in ((lossless, 400.0), (lossy, 600.0)):  # 8 * 0.5 Mbit and 8 * 0.75 Mbit in 10 ms
        bandwidth, low, high = found.break_even(0)
        assert bandwidth == pytest.approx(expected, rel=1e-3)
        assert expected * 0.97 < low < bandwidth < high < expected * 1.03
    assert lossless.ratios[SLOW][0] == pytest.approx(0.5)
    assert lossless.ratios[FAST][0] == pytest.approx(1.5)
    assert set(lossy.ratios) == {SLOW}


def test_the_section_answers_for_lossless_and_lossy_apart(tmp_path: Path) -> None:
    lines = compression.section(*written(tmp_path, SECONDS, BYTES), {})
    text = "\n".join(lines)
    assert "**Lossless** packing pays below these bandwidths, each that of the best packing:" in text
    assert "- TCP, submodel: 400 Mbit/s by zstd (95 %: 39" in text
    assert "- TCP, submodel: 600 Mbit/s by int8 (95 %: 58" in text
    assert "With random weights top-1 agreement means nothing" in text
    assert "**Answers differ much** (cosine below 0.9): int8 (TCP, submodel)." in text
    first, second, third = tables_of(text)
    assert first[1][:8] == ["TCP, submodel", "zstd", "1", "0.5", "2.00", "4.00", "6.00", "400"]
    assert second[1][-3:] == ["2.0e-02", "0.80000", "0.500"]
    assert third[0] == ["Cell", "Wire", "rtt:5ms, bandwidth:5Mbit", "rtt:5ms, bandwidth:1000Mbit"]
    assert third[1][2].startswith("0.500 (")
    assert third[2][1:] == ["int8", third[2][2], "—"]


def test_the_answer_says_that_lossy_packings_change_answers(tmp_path: Path) -> None:
    experiment, measured = written(tmp_path, SECONDS, BYTES)
    *_, last = answer(experiment, measured, summary_of(measured, 0), {}, True)
    assert last == "Lossy packings change the answers: the smallest cosine with the local model's is int8 0.80."


def test_a_packing_that_saves_nothing_never_pays(tmp_path: Path) -> None:
    seconds = {key: value for key, value in SECONDS.items() if key[0] != "int8"}
    experiment, measured = written(tmp_path, seconds, {"zstd": 1e6})
    (found,) = compression.packings(experiment, measured)
    bandwidth, low, high = found.break_even(0)
    assert bandwidth == 0
    assert math.isnan(low)
    assert math.isnan(high)
    assert "- TCP, submodel: none, since nothing is saved" in compression.section(experiment, measured, {})


def test_a_cell_without_its_twin_has_no_row(tmp_path: Path) -> None:
    alone = {key: value for key, value in SECONDS.items() if key[0] != "none"}
    assert compression.section(*written(tmp_path, alone, BYTES), {}) == []
