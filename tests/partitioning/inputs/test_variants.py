"""The inputs that requests cycle through: of one image, of a folder, of arrays, or seeded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from partitioning.client_side import ClientSide
from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.input_options import PHOTOGRAPH, VARIANTS
from partitioning.inputs.images import Pixels
from partitioning.inputs.seeded import seeded
from partitioning.inputs.variants import check_input, photographs, variants
from partitioning.planned import PlanOptions
from transports.base import DTYPES

IMAGE = TensorInfo("image", (None, 32, 24, 3), "float32")
OTHER = TensorInfo("other", (None, 32, 24, 3), "float32")
VECTOR = TensorInfo("features", (None, 7), "float32")


def made(
    *infos: TensorInfo, batch: int = 1, limits: Mapping[str, int] | None = None, most: int = 50, **settings: Any
) -> list[dict[str, Any]]:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return variants(PlanOptions(**given), ClientSide(infos, (), None, limits=limits or {}), batch, most=most)


def test_variants_of_images_and_numbers_all_differ() -> None:
    found = made(IMAGE, VECTOR, batch=3)
    assert len(found) == VARIANTS
    assert all(list(variant) == ["image", "features"] for variant in found)
    items = [item.tobytes() for variant in found for tensor in variant.values() for item in tensor]
    assert len(set(items)) == VARIANTS * 2 * 3
    assert found[0]["image"].shape == (3, 32, 24, 3)
    assert found[0]["features"].shape == (3, 7)


def test_two_images_of_one_model_differ() -> None:
    items = [
        item.tobytes() for variant in made(IMAGE, OTHER, batch=2) for tensor in variant.values() for item in tensor
    ]
    assert len(set(items)) == VARIANTS * 2 * 2


@pytest.mark.parametrize(
    ("shape", "dtype", "settings", "expected"),
    [
        ((None, None, None, 3), "uint8", {}, (1, 224, 224, 3)),
        ((None, None, None, 3), "float32", {"extent": ("x:1=20", "x:2=30")}, (1, 20, 30, 3)),
        ((1, 64, 64, 3), "float32", {}, (1, 64, 64, 3)),
        ((None, 28, 28, 1), "float16", {"scale": "-1..1"}, (1, 28, 28, 1)),
        ((None, 8, 8, 4), "float32", {"scale": "0..1"}, (1, 8, 8, 4)),
    ],
)
def test_images_for_inputs_of_every_shape(
    shape: tuple[int | None, ...], dtype: str, settings: dict[str, Any], expected: tuple[int, ...]
) -> None:
    first, second, *_ = [variant["x"] for variant in made(TensorInfo("x", shape, dtype), **settings)]
    assert first.shape == expected
    assert first.dtype == dtype
    assert first.tobytes() != second.tobytes()
    low, high = {"0..1": (0, 1), "-1..1": (-1, 1)}.get(settings.get("scale"), (0, 255))
    assert low <= first.min() < first.max() <= high
    assert first.astype(float).std() > (high - low) / 8


def test_a_batch_takes_consecutive_images_of_a_folder(tmp_path: Path) -> None:
    for level in (10, 20, 30):
        Image.new("RGB", (6, 4), (level, level, level)).save(tmp_path / f"{level}.png")
    found = made(IMAGE, OTHER, batch=2, input=tmp_path)
    assert [variant["image"][:, 0, 0, 0].tolist() for variant in found] == [[10, 20], [30, 10], [20, 30]]
    assert [variant["other"][:, 0, 0, 0].tolist() for variant in found] == [[30, 10], [20, 30], [10, 20]]
    assert len(made(IMAGE, batch=3, input=tmp_path)) == 1
    assert len(made(IMAGE, batch=1, input=tmp_path, most=2)) == 2


def test_a_batch_takes_consecutive_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", features=np.arange(21, dtype=np.float32).reshape(3, 7), image=np.zeros((3, 2)))
    info = TensorInfo("image", (None, 2), "float64")
    found = made(VECTOR, info, batch=2, input=tmp_path / "data.npz")
    assert [variant["features"][:, 0].tolist() for variant in found] == [[0, 7], [14, 0], [7, 14]]
    np.save(tmp_path / "data.npy", np.arange(28, dtype=np.float32).reshape(4, 7))
    found = made(VECTOR, batch=2, input=tmp_path / "data.npy")
    assert [variant["features"][:, 0].tolist() for variant in found] == [[0, 7], [14, 21]]


def test_arrays_fill_open_axes_unless_an_extent_is_given(tmp_path: Path) -> None:
    open_axis, path = TensorInfo("x", (None, None), "int32"), tmp_path / "data.npy"
    np.save(path, np.ones((2, 9), np.int32))
    assert made(open_axis, input=path, extent=("x=9",))[0]["x"].shape == (1, 9)
    with pytest.raises(PartitionError, match=r"is int32\[2, 9\]; expected is x int32\[\?, 5\]"):
        made(open_axis, input=path, extent=("x=5",))


def test_images_pass_the_models_own_preprocessing() -> None:
    def halved(pixels: Pixels) -> Pixels:
        return pixels / 2

    client = ClientSide((IMAGE, VECTOR), (), None)
    plain, own = (variants(PlanOptions(), client, 1, preprocess)[0] for preprocess in (None, halved))
    np.testing.assert_array_equal(own["image"], plain["image"] / 2)
    np.testing.assert_array_equal(own["features"], plain["features"])
    with pytest.raises(PartitionError, match=r"--scale 0..1: the model has its own preprocessing; leave it out"):
        variants(PlanOptions(scale="0..1"), client, 1, halved)


@pytest.mark.parametrize(
    ("info", "settings", "message"),
    [
        (VECTOR, {"input": "mine.jpg"}, r"takes no image \(its inputs: features float32\[\?, 7\]\)"),
        (VECTOR, {"scale": "0..1"}, "there is no image to scale"),
        (TensorInfo("x", (None, 8, 8, 3), "uint8"), {"scale": "0..1"}, "takes whole numbers"),
        (
            TensorInfo("x", (None, 8, 8, 1), "float32"),
            {"scale": "imagenet"},
            "has no 3 channels; valid: 0..255, 0..1, -1..1",
        ),
        (TensorInfo("x", (1, 8, 8, 3), "float32"), {"batch": 8}, "--batch 8: .* fixed batch 1; valid: 1"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    info: TensorInfo, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        made(info, **settings)


def test_a_scale_of_arrays_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((1, 7), np.float32))
    with pytest.raises(PartitionError, match="there is no image to scale"):
        made(VECTOR, input=tmp_path / "data.npy", scale="0..1")


def test_a_batch_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert len(made(IMAGE, batch=13)) == VARIANTS  # 32 x 24 x 3 values of eight bytes, four times
    with pytest.raises(PartitionError, match=r"--batch: an input of 14 samples.*give at most 13 samples"):
        made(IMAGE, batch=14)
    assert len(made(TensorInfo("fixed", (13, 32, 24, 3), "float32"), batch=13)) == VARIANTS


def test_an_input_without_values_needs_no_memory() -> None:
    assert all(arrays["empty"].shape == (2, 0) for arrays in made(TensorInfo("empty", (None, 0), "float32"), batch=2))


def test_an_input_is_checked_before_the_model_is_loaded(tmp_path: Path) -> None:
    check_input(PlanOptions())
    for name in ("missing.npz", "missing.jpg"):
        with pytest.raises(PartitionError, match="--input: no file"):
            check_input(PlanOptions(input=str(tmp_path / name)))


def test_models_are_calibrated_with_the_bundled_photograph_if_the_input_is_arrays(tmp_path: Path) -> None:
    bundled, own = (photographs(PlanOptions(input=path), (8, 8), 4) for path in (str(PHOTOGRAPH), "data.npz"))
    np.testing.assert_array_equal(own, bundled)
    assert own.shape == (4, 8, 8, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_seeded(dtype: str) -> None:
    info = TensorInfo("x", (None, None, 5), dtype)
    first, again, other = seeded(info, 4, 1), seeded(info, 4, 1), seeded(info, 4, 2)
    assert first.shape == (4, 16, 5)
    assert first.dtype == DTYPES[dtype]
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert len(np.unique(first.astype(np.complex128))) > 1
    limited = seeded(info, 4, 1, limit=2)
    assert limited.dtype == DTYPES[dtype]
    assert set(limited.astype(float).flat) == {0, 1}
