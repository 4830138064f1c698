"""Packing without any wire: what comes back, by how much it is wrong, and what a hostile peer can do."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_architecture import HEAVY, loaded_by
from tests.transports.test_codecs import arrays, described
from transports import Message, packing
from transports.base import DTYPES, Array, Scalar
from transports.errors import MalformedMessage, MessageTooLarge
from transports.packing import messages
from transports.packing.base import Packer

LIMIT = 10**7
few = settings(max_examples=60, deadline=None)
LOSSLESS = [name for name in packing.NAMES if packing.is_lossless(name if name not in ("zfp", "jpeg") else f"{name}:1")]
FLOATS = ("float16", "bfloat16", "float32", "float64")
LOSSY = ("f16", "bf16", "int8", "zfp:0.01", "zfp:1e-05")


def loaded(wire: str) -> Packer:
    packer = packing.load(packing.check(wire))
    assert packer is not None
    return packer


def packed_message(tensor: Array, wire: str) -> Message:
    fields: dict[str, Scalar] = {"kept": 1}
    tensors = messages.pack({"x": tensor}, loaded(wire), fields)
    return Message("infer", fields, tensors)


def crossed(tensor: Array, wire: str) -> Array:
    """`tensor` after it was packed and unpacked."""
    packer = loaded(wire)
    there = packed_message(tensor, wire)
    assert there.payload <= tensor.nbytes
    back = messages.unpack(there, packer, LIMIT)
    assert back.fields == {"kept": 1}
    return back.tensors["x"]


@st.composite
def finite(draw: st.DrawFn) -> Array:
    """A tensor of finite floats of one magnitude, small or large, and some zeros."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 9]), max_size=6).filter(lambda shape: math.prod(shape) <= 4000))
    dtype = draw(st.sampled_from(FLOATS))
    scale = draw(st.sampled_from([0.0, 1e-7, 1.0, 3e4] + ([1e-40, 1e30, -1e38] if dtype != "float16" else [])))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    values = random.uniform(-1, 1, shape) * (random.uniform(size=shape) > 0.3) + draw(st.sampled_from([0.0, 1.0]))
    return np.asarray(values * scale, DTYPES[dtype])


USED = """
import numpy
from transports import packing
from transports.packing import messages
packer = packing.load({wire!r})
tensor = numpy.zeros((1, 40, 40, 3), numpy.float32)
packer.unpack(packer.pack(tensor), tensor.dtype, tensor.shape)
"""
LIBRARIES = {"lz4", "zstandard", "blosc2", "zfpy", "PIL"}


@pytest.mark.parametrize("wire", ["f16", "int8", "lz4", "zstd", "blosc2", "zfp:0.1", "jpeg:90"])
def test_using_a_packing_imports_its_own_library_and_no_other(wire: str) -> None:
    own = "".join(f"import {library}\n" for library in loaded(wire).libraries)  # with what it imports itself
    assert loaded_by(USED.format(wire=wire)) & (LIBRARIES | HEAVY) == loaded_by(own) & (LIBRARIES | HEAVY)


@pytest.mark.parametrize("wire", LOSSLESS)
@few
@given(tensor=arrays() | finite())
def test_a_lossless_packing_gives_every_bit_back(wire: str, tensor: Array) -> None:
    assert described(crossed(tensor, wire)) == described(tensor)


@pytest.mark.parametrize("wire", LOSSLESS)
@pytest.mark.parametrize("tensor", [np.zeros((3, 1000)), np.arange(6000, dtype="int64"), np.full(5000, np.nan)])
def test_a_lossless_packing_packs_what_repeats(wire: str, tensor: Array) -> None:
    there = packed_message(tensor, wire)
    assert there.payload < tensor.nbytes
    assert described(crossed(tensor, wire)) == described(tensor)


@pytest.mark.parametrize("wire", [*LOSSY, "jpeg:90"])
@few
@given(tensor=arrays())
def test_a_lossy_packing_changes_floats_alone(wire: str, tensor: Array) -> None:
    if tensor.dtype.name not in FLOATS:
        assert described(crossed(tensor, wire)) == described(tensor)


BOUNDS: dict[str, Callable[[Any], Any]] = {
    "f16": lambda values: np.abs(values) * 2**-11 + 2**-25,
    "bf16": lambda values: np.abs(values) * 2**-8 + 2**-133,
    "int8": lambda values: (values.max() - values.min()) / 255 / 2 + np.abs(values).max() * 2**-22,
    "zfp:0.01": lambda values: np.abs(values).max() * 0.01,
    "zfp:1e-05": lambda values: np.abs(values).max() * 1e-5,
}
"""Wire -> the largest error of each element."""


@pytest.mark.parametrize("wire", LOSSY)
@settings(max_examples=200, deadline=None)
@given(tensor=finite())
def test_a_lossy_packing_keeps_its_bound(wire: str, tensor: Array) -> None:
    wide = tensor.astype(np.float64)
    if wire == "f16" and np.abs(wide).max(initial=0) > 65504 and tensor.dtype.name in ("float32", "float64"):
        with pytest.raises(MalformedMessage, match="tensor 'x': a value is too large for float16; valid: bf16"):
            crossed(tensor, wire)
        return
    if wire.startswith("zfp") and 0 < np.abs(wide).max(initial=0) < 1e-30 and tensor.dtype.name == "float32":
        with pytest.raises(MalformedMessage, match=r"tensor 'x': its largest value, .*, is too small for zfp"):
            crossed(tensor, wire)
        return
    back = crossed(tensor, wire)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    found = back.astype(np.float64)
    rounding = np.maximum(np.abs(wide), np.abs(found)) * {"float16": 2**-10, "bfloat16": 2**-7}.get(
        tensor.dtype.name, 2**-23
    )
    rounding += float(np.finfo(np.float32).smallest_subnormal)
    assert (np.abs(found - wide) <= BOUNDS[wire](wide) + rounding).all()


ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -1.5] * 20, np.float32)


@pytest.mark.parametrize("wire", [*LOSSLESS, "f16", "bf16"])
def test_values_that_are_not_finite_come_back(wire: str) -> None:
    np.testing.assert_array_equal(crossed(ODD, wire), ODD)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wire", ["int8", "zfp:0.01"])
def test_values_that_a_packing_cannot_hold_are_refused_with_the_tensor(wire: str, bad: float) -> None:
    tensor = np.array([1.0, bad, 2.0] * 30, np.float32)
    with pytest.raises(MalformedMessage, match="tensor 'x': it has values that are not finite"):
        crossed(tensor, wire)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_jpeg_keeps_images_alike(colours: int, count: int) -> None:
    rows, columns = np.mgrid[0:60, 0:81]
    smooth = np.stack([(rows * 2 + columns * shade) % 256 for shade in range(1, colours + 1)], -1)
    images = np.minimum(np.stack([smooth // (number + 1) for number in range(count)]), 250).astype(np.float32)
    back = crossed(images, "jpeg:95")
    assert (back.dtype, back.shape) == (images.dtype, images.shape)
    assert np.abs(back - images).mean() < 12
    assert packed_message(images, "jpeg:95").payload < images.nbytes / 4
    worse = crossed(images, "jpeg:5")
    assert np.abs(worse - images).mean() > np.abs(back - images).mean()


@pytest.mark.parametrize(
    "values", [np.full((1, 9, 9, 3), 255.6), np.full((1, 9, 9, 3), -1.0), np.full((1, 9, 9, 3), np.nan)]
)
def test_values_that_are_no_pixels_are_refused_with_the_tensor(values: Array) -> None:
    with pytest.raises(MalformedMessage, match="tensor 'x': JPEG holds pixels from 0 to 255"):
        crossed(values, "jpeg:90")


@pytest.mark.parametrize("shape", [(9, 9, 3), (1, 0, 9, 3), (1, 9, 9, 2), (1, 9, 70_000, 1)])
def test_jpeg_leaves_other_shapes_alone(shape: tuple[int, ...]) -> None:
    tensor = np.zeros(shape, np.float32)
    assert described(crossed(tensor, "jpeg:90")) == described(tensor)


EVERY = [*LOSSLESS, *LOSSY, "jpeg:90"]
SAMPLE = np.maximum(np.random.default_rng(0).normal(60, 60, (2, 12, 11, 3)), 0).clip(0, 255).astype(np.float32)


@pytest.mark.parametrize("wire", EVERY)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_unpacked_or_refused_and_nothing_else(wire: str, data: st.DataObject) -> None:
    packer = loaded(wire)
    there = packed_message(SAMPLE, wire)
    array = there.tensors["x"]
    spoilt = bytearray(array.tobytes())
    for place in data.draw(st.lists(st.integers(0, len(spoilt) - 1) | st.integers(0, 40), max_size=5)):
        spoilt[place] = data.draw(st.integers(0, 255))
    if array.dtype == np.uint8:
        spoilt = spoilt[: data.draw(st.integers(0, len(spoilt)))] if data.draw(st.booleans()) else spoilt
        came: Array = np.frombuffer(bytes(spoilt), np.uint8)
    else:
        came = np.frombuffer(bytes(spoilt), array.dtype).reshape(array.shape)
    shape = data.draw(st.sampled_from([SAMPLE.shape, (2, 12, 11, 1), (3, 12, 11, 3), (1,), (2, 4000, 4, 3)]))
    field = messages._encode({"x": (data.draw(st.sampled_from(["float32", "float64", "uint8"])), shape)}).decode()
    try:
        back = messages.unpack(Message("infer", {messages.FIELD: field}, {"x": came}), packer, LIMIT)
    except (MalformedMessage, MessageTooLarge):
        return
    assert back.tensors["x"].shape == shape


def described_as(field: str, tensors: dict[str, Array], wire: str = "zstd") -> Message:
    return messages.unpack(Message("infer", {messages.FIELD: field}, tensors), loaded(wire), LIMIT)


@pytest.mark.parametrize(
    ("field", "error", "text"),
    [
        ("", MalformedMessage, "describes no packed tensors"),
        ("[]", MalformedMessage, "describes no packed tensors"),
        ('{"x":["float32",[-1]]}', MalformedMessage, "describes no packed tensors"),
        ('{"x":["float32",[1.5]]}', MalformedMessage, "describes no packed tensors"),
        ('{"x":["object",[1]]}', MalformedMessage, "dtype 'object' is not one of"),
        ('{"y":["float32",[1]]}', MalformedMessage, "tensor 'y' is described as packed, and did not come"),
        ('{"x":["float32",[0]]}', MalformedMessage, "zstd packs no"),
        ('{"x":["float32",[3000000]]}', MessageTooLarge, "take 12000000 bytes, above the limit of 10000000"),
        ('{"x":["float32",[9223372036854775807,9223372036854775807]]}', MessageTooLarge, "above the limit"),
        ('{"x":["float32",[1000]]}', MalformedMessage, "tensor 'x': its bytes are none that zstd has written"),
    ],
)
def test_a_description_is_checked_before_memory_is_taken(field: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        described_as(field, {"x": np.zeros(10, np.uint8)})


def test_all_tensors_together_must_be_within_the_limit() -> None:
    field = '{"x":["uint8",[5000000]],"y":["uint8",[5000000]]}'
    packed = np.frombuffer(zstandard.ZstdCompressor().compress(bytes(5_000_000)), np.uint8)
    assert described_as(field, {"x": packed, "y": packed}).payload == LIMIT
    with pytest.raises(MessageTooLarge):
        described_as(field, {"x": packed, "y": packed, "z": np.zeros(1)})


BOMBS = {
    "lz4": lambda size: loaded("lz4").pack(np.zeros(size, np.uint8)),
    "zstd": lambda size: loaded("zstd").pack(np.zeros(size, np.uint8)),
    "blosc2": lambda size: loaded("blosc2").pack(np.zeros(size, np.uint8)),
    "jpeg:90": lambda size: loaded("jpeg:90").pack(np.zeros((1, size // 10_000, 10_000, 1), np.uint8)),
}


@pytest.mark.parametrize("wire", BOMBS)
def test_what_unpacks_to_more_than_it_declares_is_refused(wire: str) -> None:
    bomb = BOMBS[wire](20_000_000)
    assert bomb.nbytes < 1_000_000
    with pytest.raises(MalformedMessage, match="its bytes are none that"):
        described_as('{"x":["uint8",[1,10,10,1]]}', {"x": bomb}, wire)


def test_a_frame_that_claims_no_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(MalformedMessage, match="its bytes are none that"):
        described_as('{"x":["uint8",[100]]}', {"x": np.frombuffer(frame, np.uint8)})


@pytest.mark.parametrize(("place", "value"), [(22, 37), (16, 160), (31, 0x40), (2, 0xC5)])
def test_a_chunk_that_names_a_plugin_or_unset_memory_starts_nothing(place: int, value: int) -> None:
    chunk = loaded("blosc2").pack(np.arange(1000, dtype=np.float32)).copy()
    chunk[place] = value
    with pytest.raises(MalformedMessage, match="its bytes are none that") as refused:
        described_as('{"x":["float32",[1000]]}', {"x": chunk}, "blosc2")
    assert "the header of the chunk is another one" in str(refused.value.__cause__)  # before the library sees it


def test_levels_that_are_not_finite_are_refused() -> None:
    for low, step in ((math.nan, 1.0), (0.0, math.inf), (0.0, -1.0), (1e308, 1e308)):
        packed = np.frombuffer(struct.pack("<dd", low, step) + bytes(10), np.uint8)
        with pytest.raises(MalformedMessage, match="its bytes are none that int8"):
            described_as('{"x":["float64",[10]]}', {"x": packed}, "int8")
