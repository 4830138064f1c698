"""trace.json: valid after every block, marked when a run fails, readable when it was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.measure.attribution import Placed
from experiments.measure.tracing import lanes
from experiments.store import files, trace_file
from experiments.store.files import WriteError
from experiments.store.trace_file import Writer
from transports.errors import UsageError
from transports.spans import Span

ABOUT: Mapping[str, Any] = {"name": "splitbench", "ph": "M", "pid": 1, "args": {"requests": 10, "epoch": 5.0}}
CLIENT: Mapping[str, Any] = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "client"}}


def event(name: str, **args: object) -> dict[str, Any]:
    return {"name": name, "cat": name, "ph": "X", "ts": 1.0, "dur": 2.0, "pid": 1, "tid": 1, "args": args}


def test_the_file_is_valid_after_every_block(tmp_path: Path) -> None:
    path = tmp_path / files.TRACE
    with Writer(tmp_path) as writer:
        assert json.loads(path.read_bytes()) == []
        writer.append([ABOUT, CLIENT])
        writer.append([])
        assert json.loads(path.read_bytes()) == [ABOUT, CLIENT]
        writer.append([event("request"), event("call")])
        assert json.loads(path.read_bytes()) == [ABOUT, CLIENT, event("request"), event("call")]
    found = trace_file.read(tmp_path)
    assert (found.spans, found.processes, found.epoch) == ((event("request"), event("call")), {1: "client"}, 5.0)
    assert found.complete


def test_a_failed_run_is_marked(tmp_path: Path) -> None:
    def fail() -> None:
        with Writer(tmp_path) as writer:
            writer.append([ABOUT, CLIENT, event("request")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads((tmp_path / files.TRACE).read_bytes())[-1]["args"] == {"complete": False}
    assert not trace_file.read(tmp_path).complete


@pytest.mark.parametrize("cut", [1, 3, 20, 60])
def test_a_run_that_was_killed_while_it_wrote_keeps_whole_events(cut: int, tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append([ABOUT, CLIENT, event("request"), event("call")])
    path = tmp_path / files.TRACE
    path.write_bytes(path.read_bytes()[:-cut])
    found = trace_file.read(tmp_path)
    assert not found.complete
    assert [each["name"] for each in found.spans] == ["request", "call"][: 2 if cut <= 3 else 1]


def test_a_trace_is_not_overwritten(tmp_path: Path) -> None:
    with Writer(tmp_path):
        pass
    with pytest.raises(UsageError, match="already holds a trace"):
        Writer(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot write"):
        Writer(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[]", "[\n{}\n]", '[\n{"name":"splitbench","ph":"M","pid":1,"args":{}}\n]'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / files.TRACE).write_text(text)
    with pytest.raises(UsageError, match="is no trace of splitbench"):
        trace_file.read(tmp_path)


def test_a_folder_without_a_trace_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measure again with --trace"):
        trace_file.read(tmp_path)


def test_spans_that_overlap_get_lanes_of_their_own() -> None:
    """A child is on the lane of its parent; spans that overlap without nesting are on different lanes."""
    times = {"a": (0, 10), "a1": (1, 4), "a2": (3, 6), "b": (4, 12), "a3": (7, 8), "c": (12, 13)}
    spans = [
        Placed(Span("t", name, name[:-1], "call", float(begin), float(end)), "client", -1)
        for name, (begin, end) in times.items()
    ]
    found = {each.span.id: lane for lane, each in lanes(spans)}
    assert found == {"a": 1, "a1": 1, "a2": 2, "b": 3, "a3": 1, "c": 1}
