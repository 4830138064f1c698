"""Cells with packed tensors: what is refused, the gate for lossy packings, a run with several packings, its report."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pandas as pd
import pytest

from cluster.partition import Partition
from experiments.measure import gate, lossy_gate
from experiments.measure.gate import OutputDiffers, Right
from experiments.measure.prepare import prepare
from experiments.measure.tolerance import Tolerance
from experiments.reports import compression, report
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import parse
from experiments.store import files, samples, statistics
from tests.cluster.plans import chain, placed
from tests.experiments.common import tables_of
from tests.running import Run
from transports import packing
from transports.base import Array
from transports.errors import UsageError

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

TCP = ("--transport", "tcp")
REFUSED = [
    (("--wire", "zip"), "--wire: no packing 'zip'; did you mean 'zfp'? (valid: none, f16, bf16, int8, lz4"),
    (("--wire", ""), "--wire: no packing ''; (valid: none, f16"),
    (("--wire", "zstd:3"), "--wire zstd:3: takes no argument, and has '3'; give zstd"),
    *(
        (("--wire", text), f"--wire {text}: give the largest error, as a share of a tensor's largest value: zfp:0.001")
        for text in ("zfp", "zfp:", "zfp:x", "zfp:-0.1", "zfp:0", "zfp:nan", "zfp:2")
    ),
    *(
        (
            ("--mode", "whole", "--wire", text),
            f"--wire {text}: give the quality, a whole number: jpeg:90; valid: 1 to 95",
        )
        for text in ("jpeg", "jpeg:", "jpeg:0", "jpeg:96", "jpeg:9.5", "jpeg:-1", "jpeg:" + "9" * 5000)
    ),
    (("--wire", "jpeg:90"), "--wire jpeg:90: only the input of a whole model is an image; valid with --mode whole"),
]


@pytest.mark.parametrize(("argv", "text"), REFUSED, ids=[" ".join(argv)[:40] for argv, _ in REFUSED])
def test_an_unusable_packing_is_refused(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse([*TCP, *argv])
    assert text in str(refused.value)


@pytest.mark.parametrize("transport", ["none", "none,sockets", "sockets"])
def test_a_packing_that_no_message_could_have_is_refused(transport: str) -> None:
    with pytest.raises(UsageError, match=r"--wire zstd: .*; leave it out, or add a transport"):
        parse(["--transport", transport, "--wire", "zstd"])


def test_over_none_and_runtimes_a_packing_is_no_setting() -> None:
    cells = parse(["--transport", "none,tcp,sockets", "--wire", "none,zstd", "--engine", "frozen"])[0].cells
    assert [(cell.transport, cell.wire) for cell in cells] == [
        ("none", "none"),
        ("tcp", "none"),
        ("tcp", "zstd"),
        ("sockets", "none"),
    ]
    assert statistics.none_of(cells[2]) == cells[0]


def test_equal_arguments_are_one_cell() -> None:
    (cell,) = parse([*TCP, "--wire", "zfp:1e-3,zfp:0.001"])[0].cells
    assert cell.wire == "zfp:0.001"
    assert cell.name == "tcp/layer/nested/eager/raw/b1/s5/wire=zfp:0.001"


@pytest.mark.parametrize("name", [name for name in packing.NAMES if name not in ("f16", "bf16", "int8")])
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing.load.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    wire = {"zfp": "zfp:0.1", "jpeg": "jpeg:9"}.get(name, name)
    with pytest.raises(UsageError, match=rf"packing '{name}' needs the package '.*': pip install '.*>="):
        parse([*TCP, "--mode", "whole", "--wire", wire])


def model_of(folder: Path, *shape: int, dtype: str = "float32") -> str:
    with_dtype = keras.DTypePolicy(dtype)
    inputs = keras.Input(shape, dtype=dtype)
    outputs = keras.layers.Dense(4, dtype=with_dtype)(keras.layers.Flatten(dtype=with_dtype)(inputs))
    keras.Model(inputs, outputs).save(path := folder / "small.keras")
    return str(path)


def test_a_packing_without_a_tensor_to_pack_is_refused(tmp_path: Path) -> None:
    cell = Cell(transport="tcp", mode="whole", servers=1, wire="zfp:0.01")
    with pytest.raises(UsageError, match=r"zfp:0.01: no tensor .* is one that it packs \(they are float16\); valid"):
        prepare(Experiment((cell,), model=model_of(tmp_path, 8, dtype="float16")))


def test_jpeg_without_an_image_is_refused(tmp_path: Path) -> None:
    cell = Cell(transport="tcp", mode="whole", servers=1, wire="jpeg:90")
    with pytest.raises(UsageError, match=r"--wire jpeg:90: the model takes no image, of shape"):
        prepare(Experiment((cell,), model=model_of(tmp_path, 8)))


def test_jpeg_without_pixels_is_refused(model: Path) -> None:
    cell = Cell(transport="tcp", mode="whole", servers=1, wire="jpeg:90")
    with pytest.raises(UsageError, match=r"input 'image': JPEG holds pixels from 0 to 255.*; give pixels \(--scale 0"):
        prepare(Experiment((cell,), model=str(model), scale="-1..1"))


PARTITION = placed(chain(1), [0])


def judged(output: Array, expected: Array, partition: Partition = PARTITION) -> gate.Verdict:
    right = Right({"a0": expected}, Tolerance(0.0, "exact"))
    return lossy_gate.check({"a0": output}, right, "some cell", partition)


def test_a_lossy_answer_is_described_and_not_refused() -> None:
    right = np.array([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    assert judged(right, right) == gate.Verdict(0.0, cosine=1.0, top1=1.0)
    found = judged(np.array([[4.0, 3.0, 0.0], [2.0, 0.0, 0.0]], np.float32), right)
    assert (found.deviation, found.top1) == (0.25, 0.5)
    assert found.cosine == pytest.approx(24 / 25)  # of the first item; the second item has the right direction
    opposite = judged(-right, right)
    assert (opposite.deviation, opposite.cosine) == (2.0, 0.0)


def test_the_cosine_knows_no_scale_and_zeros() -> None:
    tiny = np.full((2, 5), 1e-30, np.float32)
    assert judged(tiny * 2, tiny).cosine == pytest.approx(1.0)
    zeros = np.zeros((2, 5), np.float32)
    assert judged(zeros, zeros).cosine == 1.0
    assert judged(zeros, tiny).cosine == 0.0
    huge = np.full((2, 5), 1e300)
    assert judged(huge, huge).cosine == pytest.approx(1.0)


def test_integers_and_single_values_have_the_figures_that_they_can_have() -> None:
    found = judged(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 5]]))
    assert (found.deviation, found.top1) == (0.25, 0.75)
    assert math.isnan(found.cosine)
    assert math.isnan(judged(np.ones((2, 1)), np.ones((2, 1))).top1)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (np.zeros((3, 2), np.float32), r"output 'a0' \(stage .*, server 0\) has the shape \(3, 2\)"),
        (np.zeros((2, 3), np.float64), "has the dtype float64; the local model's has float32"),
        (np.full((2, 3), np.nan, np.float32), "is not finite where the local model's is"),
    ],
)
def test_a_lossy_answer_is_refused_for_form_and_for_values_that_are_not_finite(output: Array, text: str) -> None:
    with pytest.raises(OutputDiffers, match=text):
        judged(output, np.ones((2, 3), np.float32))


WIRES = ("none", "zstd", "f16", "int8", "zfp:0.01")
PACKED = ("pack_seconds", "unpack_seconds", "raw_bytes", "packed_bytes")


@dataclass(frozen=True)
class Ended:
    folder: Path
    samples: pd.DataFrame


@pytest.fixture(scope="module")
def ended(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    out = tmp_path_factory.mktemp("packed") / "out"
    spec = out.parent / "packed.toml"
    spec.write_text(
        f"""
engine = "frozen"
batch = 16
runs = 25
[[matrix]]
transport = ["none", "tcp", "rest"]
mode = "submodel"
servers = 2
flow = ["nested", "forward"]
wire = {list(WIRES)}
[[matrix]]
transport = "tcp"
mode = "whole"
wire = ["none", "jpeg:90", "blosc2"]
[[matrix]]
transport = "tcp"
mode = "submodel"
servers = 2
flow = ["nested", "hub", "forward"]
on = "edge+cloud"
link = "edge<->cloud rtt:2ms"
wire = ["none", "f16"]
[[host]]
name = "edge"
client = true
servers = [0]
[[host]]
name = "cloud"
servers = [1]
"""
    )
    with Run("--model", model, "--spec", spec, "--out", out) as going:
        status, last = going.finish()
        assert status == 0, last
    return Ended(out, samples.read(out))


@pytest.mark.slow
def test_only_cells_with_a_packing_have_its_figures(ended: Ended) -> None:
    frame = ended.samples
    packed = frame["wire"] != "none"
    assert set(frame["wire"]) == {*WIRES, "jpeg:90", "blosc2"}
    assert (frame[packed][list(PACKED)] > 0).all().all()
    assert frame[~packed][[*PACKED, "cosine", "top1"]].isna().all().all()
    lossy = frame["wire"].isin(["f16", "int8", "zfp:0.01", "jpeg:90"])
    assert frame[lossy][["cosine", "top1"]].notna().all().all()
    assert frame[~lossy][["cosine", "top1"]].isna().all().all()


@pytest.mark.slow
def test_each_packing_saves_what_it_must(ended: Ended) -> None:
    free = ended.samples[ended.samples["link"] == ""]
    means = free.groupby(["wire", "mode"])[["payload_bytes", "raw_bytes", "packed_bytes", "deviation", "cosine"]].mean()
    share = means["packed_bytes"] / means["raw_bytes"]
    assert share["f16", "submodel"] == 0.5
    assert 0.25 < share["int8", "submodel"] < 0.3
    assert share["zstd", "submodel"] < 1
    assert share["jpeg:90", "whole"] < 1  # the images have 8 x 8 pixels
    assert means["payload_bytes"].groupby("mode").nunique().to_dict() == {"submodel": 1, "whole": 2}
    assert means["deviation"]["f16", "submodel"] > 0
    assert means["cosine"]["f16", "submodel"] > 0.999


@pytest.mark.slow
def test_with_links_only_what_crosses_one_is_packed(ended: Ended) -> None:
    """In each flow, the tensor of the cut and the model's output cross a link."""
    linked = ended.samples[(ended.samples["link"] != "") & (ended.samples["wire"] == "f16")]
    assert set(linked["flow"]) == {"nested", "hub", "forward"}
    assert linked["raw_bytes"].nunique() == 1
    assert (linked["packed_bytes"] * 2 == linked["raw_bytes"]).all()
    assert (linked["raw_bytes"] < linked["payload_bytes"]).all()


@pytest.mark.slow
def test_a_lossless_packing_changes_no_answer(ended: Ended) -> None:
    plain = ended.samples[ended.samples["wire"].isin(["none", "zstd", "blosc2"])]
    for _, group in plain[plain["transport"] != "none"].groupby(["transport", "mode", "flow", "run"]):
        assert group["deviation"].nunique() == 1


@pytest.mark.slow
def test_the_report_of_a_run_has_the_tables_and_is_derived_again(ended: Ended) -> None:
    written = {path.name: path.read_bytes() for path in ended.folder.iterdir()}
    text = report.build(ended.folder).read_text()
    assert written == {path.name: path.read_bytes() for path in ended.folder.iterdir()}
    heads = [table[0] for table in tables_of(text)]
    assert list(compression.COSTS) in heads
    assert [*compression.COSTS, *compression.LOSSES] in heads
    assert "Answers that crossed a lossy wire have no tolerance." in text
    assert "below which bandwidth they pay" in (ended.folder / files.REPORT_HTML).read_text()


def test_an_older_folder_has_no_section_and_no_packing(make_results: Maker) -> None:
    folder = make_results([Cell()])
    path = folder / files.SAMPLES
    old = pd.read_csv(path, dtype=str).drop(columns=["wire", *samples.PACKING])
    old.to_csv(path, index=False)
    assert "Packed tensors" not in report.build(folder).read_text()
    assert set(samples.read(folder)["wire"]) == {"none"}
