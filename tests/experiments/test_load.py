"""`--load`: the flag, the intended starts, and the threads that send."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ladder.__main__ import complete
from experiments.measure import open_loop, wire
from experiments.reports.labels import Settings
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.spec.flags import parse
from experiments.spec.load import IN_FLIGHT, Load, arrivals, in_flight
from experiments.spec.schedule import Block, blocks
from experiments.spec.settings import from_record, to_record
from experiments.store.statistics import none_of
from transports.errors import UsageError

POISSON, CONSTANT = Cell(load="poisson:50/s"), Cell(load="constant:20/s")
VALID = "valid: poisson:RATE/s or constant:RATE/s, with a RATE of 0.001 to 100000"

REFUSED = [
    ("poisson", f"--load 'poisson': no load; {VALID}"),
    ("poisson:abc", f"--load 'poisson:abc': no load; {VALID}"),
    ("burst:3/s", f"--load 'burst:3/s': no load; {VALID}"),
    ("poisson:0/s", f"--load 'poisson:0/s': its rate is too small; {VALID}"),
    ("constant:100001/s", f"--load 'constant:100001/s': its rate is too large; {VALID}"),
    ("poisson:20", f"--load 'poisson:20': its rate has no unit; {VALID}"),
    ("poisson:auto/s", f"--load 'poisson:auto/s': auto has no unit; {VALID}"),
    ("auto", f"--load 'auto': no load; {VALID}"),
    ("burst:auto", f"--load 'burst:auto': no load; {VALID}"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_load_that_is_none_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(["--load", text])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--concurrency", "4"],
            "with --concurrency 4: an open loop has no fixed number in flight; give one of the two",
        ),
        (["--kill", "node-1@3"], "--kill: not with --load poisson:20/s"),
        (["--transport", "sockets"], "--transport sockets takes one request at a time"),
    ],
)
@pytest.mark.parametrize("load", ["poisson:20/s", "poisson:auto"])
def test_what_excludes_a_load(argv: list[str], message: str, load: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(["--load", load, *argv])
    assert message.replace("poisson:20/s", load) in str(error.value)


@pytest.mark.parametrize("load", ["poisson:20/s", "constant:auto"])
def test_a_ladder_has_no_load(load: str) -> None:
    with pytest.raises(UsageError, match="a ladder cannot have --load"):
        complete(parse(["--load", load])[0])


def test_a_comma_makes_a_matrix_and_the_local_model_stays_closed(tmp_path: Path) -> None:
    cells = parse(["--transport", "none,grpc", "--load", ",poisson:20.0/s, constant:5/s"])[0].cells
    assert [cell.load for cell in cells] == ["", "poisson:20/s", "constant:5/s"] * 2
    (tmp_path / "loads.toml").write_text('load = ["poisson:20/s", "constant:5/s"]')
    assert [cell.load for cell in parse(["--spec", str(tmp_path / "loads.toml")])[0].cells] == [
        "poisson:20/s",
        "constant:5/s",
    ]
    assert {local_of(cell).load for cell in cells} == {""}
    assert none_of(POISSON) == replace(POISSON, transport="none")
    assert parse(["--transport", "none", "--mode", "whole", "--load", "poisson:20/s"])[0].cells == (local_of(Cell()),)


def test_names_labels_and_records_have_the_load() -> None:
    assert POISSON.name.endswith("/load=poisson:50/s")
    settings = Settings([Cell(), POISSON])
    assert [settings.label(cell) for cell in (Cell(), POISSON)] == ["gRPC", "gRPC, load poisson:50/s"]
    experiment = Experiment((POISSON,))
    assert from_record(to_record(experiment)) == experiment


def test_requests_under_a_load_have_no_wire_bytes() -> None:
    assert math.isnan(wire.counting(POISSON)())
    assert wire.counting(replace(POISSON, transport="none"))() == 0


def block(runs: int, number: int = 0) -> Block:
    return Block(number, number, 0, 1, range(runs))


def test_constant_starts_are_exact() -> None:
    assert arrivals(CONSTANT, block(40), 0) == pytest.approx([(run + 1) / 20 for run in range(40)], rel=1e-12)


@pytest.mark.parametrize("rate", [0.5, 50, 5000])
def test_gaps_of_poisson_follow_the_exponential_law(rate: float) -> None:
    """Mean and deviation of N gaps are 1 / rate, within four standard errors: 4 / sqrt(N) and 4 sqrt(2 / N) of it."""
    count = 20_000
    gaps = np.diff([0.0, *arrivals(Cell(load=f"poisson:{rate}/s"), block(count), 0)])
    assert (gaps > 0).all()
    assert gaps.mean() * rate == pytest.approx(1, abs=4 / math.sqrt(count))
    assert gaps.std() * rate == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert (gaps > 1 / rate).mean() == pytest.approx(math.exp(-1), abs=0.02)


def test_the_seed_and_the_round_decide_the_starts() -> None:
    first = arrivals(POISSON, block(9), 0)
    assert first == arrivals(replace(POISSON, transport="tcp"), block(9), 0)
    others = [(POISSON, block(9), 1), (POISSON, block(9, 1), 0), (Cell(load="poisson:51/s"), block(9), 0)]
    assert len({first, *(arrivals(*other) for other in others)}) == 4


def test_a_block_lasts_a_second_and_has_ten_requests() -> None:
    def longest(*rates: float) -> int:
        return max(len(each.runs) for each in blocks([1], 10_000, "shuffled", 0, rates=rates))

    assert [longest(), longest(0.1), longest(20), longest(20, 500)] == [5, 10, 20, 500]
    assert {each.lead for each in blocks([1], 50, "shuffled", 0, replicas=2, rates=[20])} == {2}


def test_requests_in_flight_are_those_of_a_block_within_the_limit() -> None:
    def of(load: str, **more: Any) -> int:
        return in_flight(cell := Cell(load=load), Experiment((cell,), runs=100, **more))

    assert [of("constant:20/s"), of("constant:20/s", order="blocked"), of("poisson:9999/s")] == [20, 100, IN_FLIGHT]
    assert in_flight(Cell(concurrency=3), Experiment((Cell(concurrency=3),))) == 3


def test_requests_begin_whether_or_not_earlier_ones_are_answered() -> None:
    """All requests are in flight together before the first is answered; the main thread keeps the results."""
    together = threading.Barrier(5)

    def request(place: int, intended: float) -> tuple[int, bool]:
        early = time.perf_counter() < intended
        together.wait(30)
        return place, early

    results: list[tuple[int, bool]] = []

    def keep(found: tuple[int, bool]) -> None:
        assert threading.current_thread() is threading.main_thread()
        results.append(found)

    open_loop.send([0.01 * place for place in range(5)], request, keep, 5)
    assert sorted(results) == [(place, False) for place in range(5)]


def test_one_thread_makes_requests_late_and_none_is_lost() -> None:
    late: list[float] = []
    answered = threading.Event()

    def request(place: int, intended: float) -> float:
        found = time.perf_counter() - intended
        if place == 0:
            answered.wait(0.3)
        return found

    open_loop.send([0.0, 0.1, 0.2], request, late.append, 1)
    assert late[1] > 0.15
    assert late[2] > 0.05


def test_an_error_ends_the_sending_and_keeps_what_is_in_flight() -> None:
    begun, failed = threading.Event(), threading.Event()
    kept: list[int] = []

    def request(place: int, intended: float) -> int:
        if place == 0:
            begun.set()
            failed.wait(30)
            return place
        begun.wait(30)
        threading.Timer(0.1, failed.set).start()
        raise ValueError(place)

    with pytest.raises(ValueError, match="1"):
        open_loop.send([0.0, 0.01, 1000.0], request, kept.append, 3)
    assert kept == [0]


def test_only_a_run_finds_rates() -> None:
    with pytest.raises(UsageError, match="--load 'poisson:auto': only a run finds the rates; give one here"):
        Load.parse("poisson:auto")


def test_a_load_is_written_as_it_is_read() -> None:
    assert [str(Load.parse(text)) for text in ("poisson:20.50/s", "constant:12345.678/s")] == [
        "poisson:20.5/s",
        "constant:12345.678/s",
    ]
