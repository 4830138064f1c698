"""Inputs: photographs as tensors, different variants, and refusals."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.measure.inputs import check_image, load_image, seeded, variants, view
from experiments.spec.experiment import PHOTOGRAPH
from experiments.spec.schedule import VARIANTS
from partitioning.graph import TensorInfo
from transports.base import DTYPES
from transports.errors import UsageError

IMAGE = TensorInfo("image", (None, 32, 24, 3), "float32")
VECTOR = TensorInfo("features", (None, 7), "float32")


def test_the_photograph_as_a_batch() -> None:
    batch = load_image(PHOTOGRAPH, (224, 160), 3)
    assert batch.shape == (3, 224, 160, 3)
    assert batch.dtype == np.float32
    assert batch.min() >= 0
    assert 200 < batch.max() <= 255
    assert batch.std() > 50


def test_item_zero_is_the_image_itself(tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "exact.png")
    batch = load_image(tmp_path / "exact.png", (4, 5), 4)
    np.testing.assert_array_equal(batch[0], pixels)
    np.testing.assert_array_equal(batch[1], pixels[:, ::-1])
    np.testing.assert_array_equal(batch[2], np.roll(pixels, 1, axis=1))
    np.testing.assert_array_equal(batch[3], np.roll(pixels, 1, axis=1)[:, ::-1])
    np.testing.assert_array_equal(load_image(tmp_path / "exact.png", (4, 5), 2, first=2), batch[2:])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(3, 30))
def test_all_views_differ(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    views = {view(pixels, number).tobytes() for number in range(2 * width * height)}
    assert len(views) >= 2 * width


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the top is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    (upright,) = load_image(tmp_path / "turned.png", (8, 8), 1)
    assert upright[0, 0, 0] == 0
    assert upright[-1, 0, 0] == 255


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "png")]
)
def test_every_common_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (9, 6), (250, 240, 230)).convert(mode).save(path)
    assert load_image(path, (6, 9), 2).shape == (2, 6, 9, 3)


def _bomb(path: Path) -> None:
    """A PNG of a few bytes whose header says 60000 x 60000."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def _bad(folder: Path, kind: str) -> Path:
    path = folder / "bad"
    whole = PHOTOGRAPH.read_bytes()
    match kind:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("no image")
        case "empty":
            path.touch()
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "bomb":
            _bomb(path)
        case "png cut off":
            Image.new("RGB", (300, 300)).save(path, "PNG")
            path.write_bytes(path.read_bytes()[:60])
        case "deep":
            Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(path, "PNG")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no file"),
        ("folder", "no file"),
        ("text", "is no image"),
        ("empty", "is no image"),
        ("truncated", "cannot be decoded"),
        ("png cut off", "cannot be decoded"),
        ("bomb", "is too large; valid:"),
        ("deep", "more than 8 bits a channel"),
    ],
)
def test_unusable_images_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = _bad(tmp_path, kind)
    with pytest.raises(UsageError, match=message) as refused:
        load_image(path, (8, 8), 1)
    assert str(refused.value).startswith("--input: ")
    with pytest.raises(UsageError, match=message):
        check_image(path)


def test_variants_of_images_and_numbers_all_differ() -> None:
    made = variants([IMAGE, VECTOR], PHOTOGRAPH, batch=3)
    assert len(made) == VARIANTS
    assert all(list(variant) == ["image", "features"] for variant in made)
    items = [item.tobytes() for variant in made for tensor in variant.values() for item in tensor]
    assert len(set(items)) == VARIANTS * 2 * 3
    assert made[0]["image"].shape == (3, 32, 24, 3)
    assert made[0]["features"].shape == (3, 7)


def test_two_images_of_one_model_differ() -> None:
    made = variants([IMAGE, TensorInfo("other", IMAGE.shape, "float32")], PHOTOGRAPH, batch=2)
    items = [item.tobytes() for variant in made for tensor in variant.values() for item in tensor]
    assert len(set(items)) == VARIANTS * 2 * 2


def test_an_image_of_open_extents_and_another_dtype() -> None:
    (made, *_) = variants([TensorInfo("image", (None, None, None, 3), "uint8")], PHOTOGRAPH, batch=1)
    assert made["image"].shape == (1, 224, 224, 3)
    assert made["image"].dtype == np.uint8


def test_a_photograph_for_a_model_without_images_is_refused(tmp_path: Path) -> None:
    assert len(variants([VECTOR], PHOTOGRAPH, batch=1)) == VARIANTS
    with pytest.raises(UsageError, match=r"takes no image \(its inputs: features float32\[None, 7\]\)"):
        variants([VECTOR], tmp_path / "mine.jpg", batch=1)


def test_a_batch_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert len(variants([IMAGE], PHOTOGRAPH, batch=13)) == VARIANTS  # 32 x 24 x 3 values of eight bytes, four times
    with pytest.raises(UsageError, match=r"--batch: an input of 14 images.*give at most 13 images"):
        variants([IMAGE], PHOTOGRAPH, batch=14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_seeded(dtype: str) -> None:
    info = TensorInfo("x", (None, None, 5), dtype)
    first, again, other = seeded(info, 4, 1), seeded(info, 4, 1), seeded(info, 4, 2)
    assert first.shape == (4, 16, 5)
    assert first.dtype == DTYPES[dtype]
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert len(np.unique(first.astype(np.complex128))) > 1
