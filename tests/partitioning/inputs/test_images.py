"""Images: decoded, resized, in views; those that cannot be used are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.input_options import PHOTOGRAPH, SCALES
from partitioning.inputs import images
from partitioning.inputs.images import Images, is_image, pixels, scaled, view


def test_the_photograph_as_a_batch() -> None:
    batch = Images.at(PHOTOGRAPH).batch(0, (224, 160), 3)
    assert batch.shape == (3, 224, 160, 3)
    assert batch.dtype == np.float32
    assert batch.min() >= 0
    assert 200 < batch.max() <= 255
    assert batch.std() > 50


def test_item_zero_is_the_image_itself(tmp_path: Path) -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(image).save(tmp_path / "exact.png")
    exact = Images.at(tmp_path / "exact.png")
    batch = exact.batch(0, (4, 5), 4)
    np.testing.assert_array_equal(batch[0], image)
    np.testing.assert_array_equal(batch[1], image[:, ::-1])
    np.testing.assert_array_equal(batch[2], np.roll(image, 1, axis=1))
    np.testing.assert_array_equal(batch[3], np.roll(image, 1, axis=1)[:, ::-1])
    np.testing.assert_array_equal(exact.batch(2, (4, 5), 2), batch[2:])


def test_each_image_of_a_folder_is_a_sample(tmp_path: Path) -> None:
    for level, name in ((10, "a.png"), (20, "b.jpg"), (30, "c.bmp")):
        Image.new("RGB", (6, 4), (level, level, level)).save(tmp_path / name)
    (tmp_path / ".hidden").write_text("no image")
    (tmp_path / "below").mkdir()
    batch = Images.at(tmp_path).batch(1, (4, 6), 4)
    assert [round(float(item.mean())) for item in batch] == [20, 30, 10, 20]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(3, 30))
def test_all_views_differ(height: int, width: int) -> None:
    image = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    views = {view(image, number).tobytes() for number in range(2 * width * height)}
    assert len(views) >= 2 * width


UPRIGHT = np.repeat(np.uint8([[[0]], [[255]]]), 4, axis=0) * np.ones((8, 8, 3), np.uint8)
"""Black above white."""


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    Image.fromarray(UPRIGHT[::-1]).save(tmp_path / "turned.png", exif=_exif(3))
    upright = pixels(tmp_path / "turned.png", (8, 8))
    np.testing.assert_array_equal(upright, UPRIGHT)


@pytest.mark.filterwarnings("error")
def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    whole = _exif(3).tobytes()
    for name, data in (("short", whole[:20]), ("wild", whole[:10] + b"\xff" * 40), ("text", b"Exif\0\0no TIFF")):
        Image.fromarray(UPRIGHT).save(tmp_path / f"{name}.jpg", exif=data, quality=100)
        found = pixels(tmp_path / f"{name}.jpg", (8, 8))
        assert found[0].max() < 20 < found[-1].min()


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")]
)
@pytest.mark.parametrize("channels", images.MODES)
def test_every_common_mode_becomes_gray_rgb_or_rgba(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (9, 6), (250, 240, 230)).convert(mode).save(path)
    assert Images.at(path).batch(0, (6, 9), 2, channels).shape == (2, 6, 9, channels)


def test_alpha_is_the_fourth_channel(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 3), (250, 240, 230, 128)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(pixels(tmp_path / "alpha.png", (3, 3), 4)[0, 0], [250, 240, 230, 128])
    np.testing.assert_array_equal(pixels(tmp_path / "alpha.png", (3, 3), 3)[0, 0], [250, 240, 230])


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369  # up to 65535
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    found = pixels(tmp_path / f"deep.{suffix}", (4, 4), 1)
    np.testing.assert_array_equal(found[..., 0], np.arange(16).reshape(4, 4) * 17)


SCALED = {
    "0..255": [0.0, 255.0, 127.5],
    "0..1": [0.0, 1.0, 0.5],
    "-1..1": [-1.0, 1.0, 0.0],
    "imagenet": [-2.1179, 2.4286, 0.4178],
}
"""Scale -> what black red, white green and gray blue become."""


@pytest.mark.parametrize("scale", SCALES)
def test_scales(scale: str) -> None:
    found = scaled(np.float32([[[[0, 255, 127.5]]]]), scale)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0, 0], SCALED[scale], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((None, 8, 8, 3), "float32", True),
        ((1, 64, 64, 3), "float32", True),
        ((None, None, None, 1), "uint8", True),
        ((None, 8, 8, 4), "float16", True),
        ((None, 8, 8, 2), "float32", False),
        ((None, 8, 3), "float32", False),
        ((None, 8, 8, 3), "int8", False),
        ((None, 8, 8, 1), "string", False),
        ((None, 8, 8, 1), "bool", False),
    ],
)
def test_which_inputs_take_images(shape: tuple[int | None, ...], dtype: str, expected: bool) -> None:
    assert is_image(TensorInfo("x", shape, dtype)) is expected


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


def _resized(jpeg: bytes, width: int, height: int) -> bytes:
    """The file with another size in the header of its frame."""
    start = next(place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := jpeg.find(mark)) > 0)
    return jpeg[: start + 5] + struct.pack(">HH", height, width) + jpeg[start + 9 :]


def _bad(folder: Path, kind: str) -> Path:
    path = folder / "bad"
    whole = PHOTOGRAPH.read_bytes()
    match kind:
        case "empty folder":
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
            Image.fromarray(np.full((4, 4), 1e9, np.int32)).save(path, "TIFF")
        case "float":
            Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path, "TIFF")
        case "heic":
            path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        case "progressive":
            Image.new("L", (64, 64)).save(path, "JPEG", progressive=True)
            path.write_bytes(_resized(path.read_bytes(), 60_000, 60_000))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no file"),
        ("empty folder", "has no image"),
        ("text", "is no image"),
        ("empty", "is no image"),
        ("truncated", "cannot be decoded"),
        ("png cut off", "cannot be decoded"),
        ("bomb", "is too large for the memory"),
        ("progressive", "is too large for the memory"),
        ("deep", "more than 16 bits a channel"),
        ("float", "more than 16 bits a channel"),
        ("heic", "is HEIC: convert it to JPEG"),
    ],
)
def test_unusable_images_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(PartitionError, match=message) as refused:
        Images.at(_bad(tmp_path, kind))
    assert str(refused.value).startswith("--input: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_photograph_above_the_limit_is_decoded_small(
    tmp_path: Path, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered, so that the file need not have 108 megapixels."""
    before = Image.MAX_IMAGE_PIXELS
    with Image.open(PHOTOGRAPH) as photograph:
        photograph.resize((1200, 900)).save(tmp_path / "large.jpg", exif=_exif(6), progressive=progressive)
    monkeypatch.setattr(images, "LARGEST", 900_000)
    assert images.decoded(tmp_path / "large.jpg").size == (113, 150)
    monkeypatch.setattr(images, "LARGEST", 4_000)
    with pytest.raises(PartitionError, match="too large"):
        images.decoded(tmp_path / "large.jpg")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_an_image_above_the_limit_is_decoded_if_the_memory_suffices(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (1200, 900), "red").save(tmp_path / "large", kind)
    monkeypatch.setattr(images, "LARGEST", 300_000)
    assert images.decoded(tmp_path / "large").size == (1200, 900)
    assert pixels(tmp_path / "large", (4, 4))[0, 0].tolist() == [255, 0, 0]
    monkeypatch.setattr(images, "free_memory", lambda: 2 * 4 * 1200 * 900 - 1)
    with pytest.raises(PartitionError, match="is too large for the memory; give a smaller image"):
        images.decoded(tmp_path / "large")


def test_a_photograph_of_108_megapixels_is_decoded_small(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    Image.new("L", (12_000, 9_000), 128).save(path)
    assert images.decoded(path).size == (1500, 1125)
    np.testing.assert_array_equal(pixels(path, (4, 4)), np.full((4, 4, 3), 128))
