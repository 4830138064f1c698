"""samples.csv: written rows are read back, even if the writer was killed or the disk is full."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.spec.experiment import Cell
from experiments.store.samples import COLUMNS, LATER, Sample, Writer, cell_of, claim, read
from transports.errors import UsageError

FIRST = ["cell", "transport", "mode", "flow", "engine", "codec", "batch", "servers", "run", "seconds"]


def write(folder: Path, *samples: Sample) -> Path:
    with Writer(folder) as writer:
        for sample in samples:
            writer.append(sample)
    return folder / "samples.csv"


def test_columns_are_in_the_documented_order(tmp_path: Path) -> None:
    path = write(tmp_path, Sample(Cell(), 0, 0.25, 3))
    with path.open(newline="") as file:
        header, row = csv.reader(file)
    assert header[:10] == FIRST
    assert tuple(header) == COLUMNS
    assert row[:10] == [Cell().name, "grpc", "layer", "nested", "eager", "raw", "1", "5", "0", "0.25"]
    assert b"\r" not in path.read_bytes()


FLOATS = st.floats(min_value=1e-9, max_value=1e6)
COUNTS = st.integers(0, 2**53)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.builds(Sample, cell=st.just(Cell(cut='a+"b",c')), run=COUNTS, seconds=FLOATS, block=COUNTS,
                          deviation=FLOATS | st.just(float("nan")), compute_seconds=FLOATS, messages=COUNTS,
                          payload_bytes=COUNTS, wire_bytes=COUNTS | st.just(float("nan")), lookups=COUNTS,
                          connects=COUNTS),
                unique_by=lambda sample: sample.run))  # fmt: skip
def test_every_value_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    folder = tmp_path_factory.mktemp("written")
    write(folder, *samples)
    frame = read(folder)
    assert len(frame) == len(samples)
    for row, sample in zip(frame.to_dict("records"), samples, strict=True):
        assert cell_of(row) == sample.cell
        for name in ("run", "seconds", "block", "compute_seconds", "messages", "payload_bytes", "lookups", "connects"):
            assert row[name] == getattr(sample, name)
        for name in ("deviation", "wire_bytes"):
            np.testing.assert_equal(row[name], sample.__dict__[name])


def test_a_file_without_later_columns_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, Sample(Cell(), 0, 0.25, 3, start=1.0, payload_bytes=7, wire_bytes=9, lookups=5))
    old = pd.read_csv(path).drop(columns=list(LATER))
    old.to_csv(path, index=False)
    (row,) = read(tmp_path).to_dict("records")
    assert (row["payload_bytes"], row["lookups"], row["concurrency"]) == (7, 5, 1)
    assert np.isnan(row["wire_bytes"])
    assert np.isnan(row["start"])


def test_dtypes(tmp_path: Path) -> None:
    write(tmp_path, Sample(Cell(), np.int64(0), np.float64(0.5), 0), Sample(Cell(), 1, 1, 0))  # type: ignore[arg-type]
    frame = read(tmp_path)
    for name in ("batch", "servers", "run", "block", "messages", "payload_bytes", "lookups", "connects"):
        assert frame[name].dtype == np.int64
    for name in ("seconds", "compute_seconds", "deviation"):
        assert frame[name].dtype == np.float64
    assert frame["seconds"].tolist() == [0.5, 1.0]
    assert frame["deviation"].isna().all()


def test_a_file_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path)
    assert read(tmp_path).shape == (0, len(COLUMNS))


@pytest.mark.parametrize("cut", [1, 2, 17, 60])
def test_a_torn_last_line_is_dropped_with_a_note(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, *(Sample(Cell(), run, 0.5, 0) for run in range(3)))
    path.write_bytes(path.read_bytes()[:-cut])
    frame = read(tmp_path)
    assert frame["run"].tolist() == [0, 1]
    assert "was dropped" in frame.attrs["note"]
    assert "was dropped" in caplog.text


def _spoilt(text: str, kind: str) -> bytes:
    lines = text.splitlines(keepends=True)
    spoilt = {
        "empty": "",
        "text": "hello\n",
        "column missing": text.replace("seconds,", "", 1),
        "column more": text.replace("deviation", "deviation,colour", 1),
        "columns swapped": text.replace("run,seconds", "seconds,run", 1),
        "short row": lines[0] + lines[1] + "a,b\n",
        "no number": text.replace("0.5", "fast"),
        "negative": text.replace("0.5", "-0.5"),
        "infinite": text.replace("0.5", "inf"),
        "no seconds": text.replace("0.5", ""),
        "no integer": text.replace("b1/s5,grpc,layer,nested,eager,raw,1,", "b1/s5,grpc,layer,nested,eager,raw,1.5,"),
        "two cells": text + lines[1].replace(",raw,", ",tensorproto,", 1).replace(",0,0.5", ",1,0.5"),
        "twice": text + lines[1],
    }[kind]
    return spoilt.encode()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "no samples file: its columns are without cell, transport"),
        ("text", "no samples file: its columns are without cell, transport"),
        ("column missing", "no samples file: its columns are without seconds"),
        ("column more", "no samples file: its columns are with colour"),
        ("columns swapped", "no samples file: its columns are in another order"),
        ("short row", f"line 3: 2 fields, expected {len(COLUMNS)}"),
        ("no number", "line 2: seconds is 'fast', expected a number"),
        ("negative", "line 2: seconds is '-0.5', expected a number"),
        ("infinite", "line 2: seconds is 'inf', expected a number"),
        ("no seconds", "line 2: seconds is '', expected a number"),
        ("no integer", "line 2: batch is '1.5', expected a number"),
        ("two cells", "has two different settings"),
        ("twice", "line 3: run 0 of this cell is there twice"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = write(tmp_path, Sample(Cell(), 0, 0.5, 0))
    path.write_bytes(_spoilt(path.read_text(), kind))
    with pytest.raises(UsageError) as refused:
        read(tmp_path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*samples\.csv: No such file"):
        read(tmp_path)
    (tmp_path / "samples.csv").write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match="is no samples file: it is not text"):
        read(tmp_path)


def test_a_stray_quote_is_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    """It begins a field that takes in the rest of the file, and a field may have 131,072 characters."""
    path = write(tmp_path, Sample(Cell(), 0, 0.5, 0))
    path.write_text(path.read_text() + '"' + "x,y\n" * 2**16)
    with pytest.raises(UsageError, match=r"samples\.csv is damaged: field larger than"):
        read(tmp_path)


KILLED = """
import sys
from pathlib import Path
from experiments.store.samples import Sample, Writer
from experiments.spec.experiment import Cell
with Writer(Path(sys.argv[1])) as writer:
    for run in range(10**9):
        writer.append(Sample(Cell(), run, 0.001 * (run + 1), run // 10))
        print(run, flush=True)
"""


def test_a_killed_writer_keeps_every_row_that_it_appended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [int(next(process.stdout)) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
    frame = read(tmp_path)
    assert len(frame) >= len(seen)
    assert frame["run"].tolist() == list(range(len(frame)))
    np.testing.assert_allclose(frame["seconds"], 0.001 * (frame["run"] + 1), rtol=1e-12)


FULL = """
import json, resource, sys
from pathlib import Path
from experiments.store.files import WriteError
from experiments.store.samples import Sample, Writer
from experiments.spec.experiment import Cell
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
writer = Writer(Path(sys.argv[1]))
try:
    for run in range(1000):
        writer.append(Sample(Cell(), run, 0.5, 0))
except WriteError as error:
    print(json.dumps([str(error), writer.rows]))
"""


def test_a_full_disk_is_one_error_and_keeps_the_written_rows(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    message, rows = json.loads(done.stdout)
    path = tmp_path / "samples.csv"
    assert message == f"cannot write {path}: File too large; it keeps the {rows} rows before this one"
    assert path.read_bytes().endswith(b"\n")
    frame = read(tmp_path)
    assert frame["run"].tolist() == list(range(rows))
    assert "note" not in frame.attrs


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UsageError, match="already holds samples"):
        Writer(tmp_path)


def test_claim_makes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert claim(folder, "mine") == folder
    assert list(folder.iterdir()) == []
    assert claim(folder, "mine") == folder  # it is still empty


@pytest.mark.parametrize("name", ["samples.csv", "summary.csv", "report.md", "environment.json", "plan-layer.json"])
def test_claim_refuses_a_folder_that_holds_an_experiment(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"already holds an experiment \({name}\)"):
        claim(tmp_path, "mine")


def test_claim_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="not a folder; give one that is new or empty"):
            claim(path)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that even root cannot write to")
def test_claim_refuses_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(UsageError, match="cannot be written to"):
        claim(Path("/proc/self/splitbench"))
    with pytest.raises(UsageError, match="cannot be written to"):
        claim(Path("/proc/self/task"))
