"""Arrays from a file, one for each input of a model: the first axis counts samples."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partitioning.errors import PartitionError, suggest
from partitioning.graph import TensorInfo
from partitioning.inputs.shapes import described, dtype_of
from partitioning.memory import check_memory

Array = NDArray[Any]

SUFFIXES = (".npz", ".npy")
MEGABYTE = 1_000_000


def is_arrays(path: Path) -> bool:
    """Whether the path names a file with arrays, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def read(path: Path) -> dict[str, Array]:
    """The arrays of a `.npz` file by name, or the array of a `.npy` file under the name "".

    Pickled objects are refused. Raises `PartitionError` for a file that is missing, unreadable, or too large.
    """
    if not path.is_file():
        raise PartitionError(f"--input: no file {str(path)!r}; write one with numpy.savez(path, NAME=array)")
    try:
        check_memory(f"--input: {str(path)!r}", _bytes(path) / MEGABYTE, MEGABYTE, "MB")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            found = {name: loaded[name] for name in loaded.files}
        if strange := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"{strange[0]!r} is no array")
        return found
    except PartitionError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        text = " ".join(str(error).split())
        raise PartitionError(
            f"--input: {str(path)!r} cannot be read: {text}; write it with numpy.save or numpy.savez, without objects"
        ) from error


def _bytes(path: Path) -> int:
    """Bytes of the arrays when they are read."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def fitted(arrays: Mapping[str, Array], infos: Sequence[TensorInfo]) -> dict[str, Array]:
    """The arrays by input name, of the inputs' dtypes; strings as objects. All have the same number of samples.

    Raises `PartitionError` for the first array whose name, dtype or shape does not fit, or that is missing.
    """
    names = [info.name for info in infos]
    if "" in arrays and len(names) == 1:
        arrays = {names[0]: arrays[""]}
    elif "" in arrays:
        raise PartitionError(f"--input: a .npy file is one array; give a .npz file with arrays {', '.join(names)}")
    for name in arrays:
        if name not in names:
            text = f"no input {name!r} for the array of that name{suggest(name, names)}"
            raise PartitionError(f"--input: {text}; valid: {', '.join(names)}")
    for info in infos:
        if info.name not in arrays:
            given = ", ".join(arrays) or "none"
            raise PartitionError(f"--input: no array for {described(info)}; add it (given: {given})")
    found = {info.name: _fitted(arrays[info.name], info) for info in infos}
    counts = {name: len(array) for name, array in found.items()}
    if len({*counts.values()}) > 1 or 0 in counts.values():
        text = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise PartitionError(f"--input: {text} samples (axis 0); give the same number in every array, 1 or more")
    return found


def _fitted(array: Array, info: TensorInfo) -> Array:
    dtype = dtype_of(info)
    if dtype.kind == "O":
        right = array.dtype.kind in "US"
    else:
        if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize:
            array = array.view(dtype)  # Files do not record dtypes that NumPy does not define, such as bfloat16.
        right = array.dtype.newbyteorder("=") == dtype
    extents = zip(info.shape[1:], array.shape[1:], strict=False)
    if right and array.ndim == len(info.shape) and all(extent in (None, size) for extent, size in extents):
        return array.astype(dtype)
    text = f"the array {info.name!r} is {array.dtype.name}{list(array.shape)}"
    raise PartitionError(f"--input: {text}; expected is {described(info)}, where axis 0 counts samples")
