"""Arrays of a file: read without pickle, and checked against the model's inputs."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest

from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.inputs.arrays import fitted, read
from transports.base import DTYPES

X = TensorInfo("x", (None, None, 6), "float32")
Y = TensorInfo("y", (None, 2), "int32")
GOOD: dict[str, Any] = {"x": np.ones((5, 3, 6), np.float32), "y": np.ones((5, 2), np.int32)}


UNREADABLE = {"float8_e5m2"}
"""Dtypes that NumPy writes and cannot read."""


@pytest.mark.parametrize("dtype", sorted({*DTYPES, "string"} - UNREADABLE))
def test_arrays_of_every_dtype_go_through_a_file(dtype: str, tmp_path: Path) -> None:
    values = np.arange(6).reshape(3, 2)
    given = values.astype(str) if dtype == "string" else values.astype(DTYPES[dtype])
    info = TensorInfo("x", (None, 2), dtype)
    np.savez(tmp_path / "data.npz", x=given)
    np.save(tmp_path / "data.npy", given)
    for path in tmp_path.iterdir():
        found = fitted(read(path), [info])["x"]
        assert found.dtype == (object if dtype == "string" else DTYPES[dtype])
        assert found.tolist() == given.tolist()


def test_bytes_in_another_order_are_turned() -> None:
    (found,) = fitted({"x": np.arange(12, dtype=">f4").reshape(1, 2, 6)}, [X]).values()
    assert found.dtype == np.dtype("float32")
    assert found[0, 1].tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.ones(5)}, "no input 'z' for the array of that name; valid: x, y"),
        ({"y": None}, "no array for y int32[?, 2]; add it (given: x)"),
        ({"y": np.ones((5, 2))}, "array 'y' is float64[5, 2]; expected is y int32[?, 2], where axis 0 counts samples"),
        ({"y": np.ones((5, 3), np.int32)}, "array 'y' is int32[5, 3]; expected is y int32[?, 2]"),
        ({"x": np.ones((5, 6), np.float32)}, "array 'x' is float32[5, 6]; expected is x float32[?, ?, 6]"),
        ({"y": np.full((5, 2), "word")}, "array 'y' is str"),
        ({"y": np.ones((4, 2), np.int32)}, "x has 5, y has 4 samples (axis 0)"),
        ({"x": np.ones((0, 3, 6), np.float32), "y": np.ones((0, 2), np.int32)}, "x has 0, y has 0 samples (axis 0)"),
        ({"x": None, "y": None, "": np.ones(5)}, "a .npy file is one array; give a .npz file with arrays x, y"),
        ({"x": np.zeros((5, 3, 6), ml_dtypes.bfloat16).view("V2")}, "array 'x' is void16[5, 3, 6]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    with pytest.raises(PartitionError, match=re.escape(message)) as refused:
        fitted(arrays, [X, Y])
    assert str(refused.value).startswith("--input: ")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "kind", ["missing", "text", "empty", "pickle.npz", "pickle.npy", "cut.npz", "cut.npy", "member"]
)
def test_files_that_are_no_arrays_are_refused_and_nothing_is_unpickled(kind: str, tmp_path: Path) -> None:
    path = tmp_path / (kind if "." in kind else f"{kind}.npz")
    trap = np.array([Trap(tmp_path / "mark")], object)
    match kind:
        case "text" | "empty":
            path.write_text("x = 3" if kind == "text" else "")
        case "pickle.npz":
            np.savez(path, x=trap)
        case "pickle.npy":
            np.save(path, trap)
        case "cut.npz" | "cut.npy":
            np.savez(path, x=np.ones(99)) if path.suffix == ".npz" else np.save(path, np.ones(99))
            path.write_bytes(path.read_bytes()[:300])
        case "member":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.npy", b"no array")
    with pytest.raises(PartitionError, match=r"no file|cannot be read") as refused:
        fitted(read(path), [TensorInfo("x", (None,), "float64")])
    assert str(refused.value).startswith("--input: ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "mark").exists()


def test_arrays_larger_than_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(3_000_000))
    free = psutil.virtual_memory()._replace(available=20_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(PartitionError, match=r"may take 0.0 GB, and 0.0 are free; give at most 20 MB"):
        read(tmp_path / "zeros.npz")
