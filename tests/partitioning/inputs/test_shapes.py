"""Shapes of inputs: axis 0 is the batch, and --extent sets other open axes."""

from __future__ import annotations

import pytest

from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.inputs.shapes import check_batch, fixed_batch, shape_of, with_extents

Shape = tuple[int | None, ...]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None, 6), (8, 6)),
        ((None, None, 6), (8, 16, 6)),
        ((8, None, 6), (8, 16, 6)),
        ((None, None, None, 3), (8, 224, 224, 3)),
        ((8, None, 64, 1), (8, 224, 64, 1)),
        ((None, None, None, 2), (8, 16, 16, 2)),
        ((None,), (8,)),
    ],
)
def test_only_axis_0_is_the_batch(shape: Shape, expected: tuple[int, ...]) -> None:
    assert shape_of(TensorInfo("x", shape, "float32"), 8) == expected


BATCHES: list[tuple[list[Shape], int | None]] = [
    ([(None, 6)], None),
    ([(1, None, 6)], 1),
    ([(1, 64, 64, 3)], 1),
    ([(None, 6), (4, 2)], 4),
]


@pytest.mark.parametrize(("shapes", "fixed"), BATCHES)
def test_a_fixed_batch_that_differs_is_refused(shapes: list[Shape], fixed: int | None) -> None:
    infos = [TensorInfo(f"x{place}", shape, "float32") for place, shape in enumerate(shapes)]
    assert fixed_batch(infos) == fixed
    check_batch(infos, fixed or 3)
    if fixed:
        with pytest.raises(PartitionError, match=f"--batch 8: .* the fixed batch {fixed}; valid: {fixed}"):
            check_batch(infos, 8)


def test_inputs_that_no_batch_fits_are_refused() -> None:
    one, two = TensorInfo("one", (1, 6), "float32"), TensorInfo("two", (2, 6), "float32")
    with pytest.raises(PartitionError, match="different fixed batches: 1 of 'one', 2 of 'two'"):
        check_batch([one, two], 1)
    with pytest.raises(PartitionError, match="input 'x' is a scalar"):
        check_batch([TensorInfo("x", (), "float32")], 1)


INPUTS = [
    TensorInfo("x", (None, None, 6), "float32"),
    TensorInfo("image", (None, None, None, 3), "float32"),
    TensorInfo("a:b=c", (None, None), "int32"),
    TensorInfo("flat", (1, 4), "float32"),
]


@pytest.mark.parametrize(
    ("extents", "name", "shape"),
    [
        (["x=64"], "x", (None, 64, 6)),
        (["x:1=64"], "x", (None, 64, 6)),
        (["image:2=48", "image:1=32"], "image", (None, 32, 48, 3)),
        (["image:2=48", "image=32"], "image", (None, 32, 48, 3)),
        (["a:b=c=5"], "a:b=c", (None, 5)),
        (["a:b=c:1=5"], "a:b=c", (None, 5)),
        ([], "x", (None, None, 6)),
    ],
)
def test_an_extent_fixes_an_open_axis(extents: list[str], name: str, shape: Shape) -> None:
    found = {info.name: info.shape for info in with_extents(INPUTS, extents)}
    assert found == {info.name: info.shape for info in INPUTS} | {name: shape}


@pytest.mark.parametrize(
    ("extents", "message"),
    [
        (["x"], "give NAME=N or NAME:AXIS=N"),
        (["x=0"], "N is 1 or more"),
        (["x=many"], "give NAME=N"),
        (["=3"], "give NAME=N"),
        (["imag=3"], "no input 'imag'; did you mean 'image'"),
        (["image=3"], "several open axes; valid: image:1=N, image:2=N"),
        (["x:0=3"], "no open axis 0 (--batch sets axis 0); valid: 1"),
        (["x:2=3"], "no open axis 2 (--batch sets axis 0); valid: 1"),
        (["flat=3"], "no open axis but the batch; leave it out"),
        (["x=3", "x=4"], "no open axis but the batch; leave it out"),
    ],
)
def test_an_unusable_extent_is_refused(extents: list[str], message: str) -> None:
    with pytest.raises(PartitionError) as refused:
        with_extents(INPUTS, extents)
    assert str(refused.value).startswith(f"--extent {extents[-1]}: ")
    assert message in str(refused.value)
