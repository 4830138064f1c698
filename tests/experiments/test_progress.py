"""The progress display: a bar on a terminal, lines elsewhere, silence without a reader."""

from __future__ import annotations

import io
import threading

import pytest

from experiments.measure.progress import Progress

CELLS = ["none/whole", "grpc/layer"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A standard error whose reader has closed it."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class GoneTerminal(Gone, Terminal):
    pass


def run(stream: io.StringIO, total: int = 200) -> Progress:
    with Progress(total, CELLS, stream) as progress:
        progress.phase("stages [exported]")
        progress.phase("node 0 READY")
        for number in range(total):
            progress.advance(CELLS[number % 2], 0.125)
    return progress


def test_plain_lines() -> None:
    stream = io.StringIO()
    progress = run(stream)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["stages [exported]", "node 0 READY"]
    assert [text.partition(" ")[0] for text in lines[2:]] == ["1/200", *(f"{tenth * 20}/200" for tenth in range(1, 11))]
    assert lines[-1] == "200/200 requests; grpc/layer (100): 0.125 s"
    assert "s left" in lines[3]
    assert "\x1b" not in stream.getvalue()
    assert progress.counts == dict.fromkeys(CELLS, 100)


def test_a_line_is_printed_after_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 31))
    monkeypatch.setattr("experiments.measure.progress.time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    with Progress(1000, CELLS, stream) as progress:
        progress.advance(CELLS[0], 1)
        progress.advance(CELLS[0], 1)
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize("total", [0, 1, 3])
def test_few_requests(total: int) -> None:
    stream = io.StringIO()
    run(stream, total)
    assert len(stream.getvalue().splitlines()) == 2 + total


def test_more_requests_than_announced_are_counted() -> None:
    with Progress(1, CELLS, io.StringIO()) as progress:
        for _ in range(5):
            progress.advance("another/cell", 0.1)
    assert progress.counts["another/cell"] == 5


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    run(stream)
    assert "\x1b[" in stream.getvalue()
    assert "200/200" in stream.getvalue()
    assert "grpc/layer (100): 0.125 s" in stream.getvalue()
    assert "stages [exported]" in stream.getvalue()


def test_a_terminal_without_control_codes_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    run(stream)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_display_starts_no_thread(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    before = {*threading.enumerate()}
    with Progress(10, CELLS, stream()) as progress:
        progress.advance(CELLS[0], 0.1)
        assert {*threading.enumerate()} <= before  # other threads may end


@pytest.mark.parametrize("stream", [Gone, GoneTerminal])
def test_a_closed_standard_error_does_not_end_the_run(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert run(stream()).done == 200


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(RuntimeError, match="mine"), Progress(10, CELLS, Terminal()):
        raise RuntimeError("mine")


def test_a_calibration_sets_the_number_of_requests() -> None:
    stream = io.StringIO()
    with Progress(100, ["a"], stream) as progress:
        progress.expect(4, ["b"])
        progress.advance("b", 0.5)
    assert stream.getvalue().startswith("1/4 requests")
    assert progress.counts == {"b": 1}
