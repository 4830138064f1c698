"""The contract of a packer: everything that an implementer must read.

Rules:
  - A packed tensor is one new array: its bytes contain all that unpacking needs besides dtype and shape.
  - `pack` raises `ValueError` for a tensor that would not come back as exactly as the packer promises.
  - `unpack` allocates memory in proportion to the packed bytes and the declared size alone, whatever the bytes claim.
    For bytes that `pack` did not write it may raise any exception; `messages` turns it into a `MalformedMessage`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from transports.base import Array

Dtype = np.dtype[np.generic]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Packer(ABC):
    """One way to pack a tensor."""

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    """Whether a tensor comes back bit for bit."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Imported package -> its name for `pip install`."""
    answers: ClassVar[bool] = True
    """Whether the packer also packs the answers of servers."""

    @classmethod
    def parse(cls, argument: str | None) -> Self:
        """The packer for `argument`, the text after the colon (None: no colon). Raises `ValueError`."""
        if argument is not None:
            raise ValueError(f"takes no argument, and has {argument!r}; give {cls.name}")
        return cls()

    @property
    def wire(self) -> str:
        """Name and argument, as in a value of `--wire`."""
        return self.name

    @classmethod
    @abstractmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        """Whether the packer packs tensors of this dtype and shape; others cross unchanged. None: an open extent."""

    @abstractmethod
    def pack(self, tensor: Array) -> Array:
        """`tensor`, which is C-contiguous and not empty, in fewer bytes. Raises `ValueError`."""

    @abstractmethod
    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        """An array with the bytes of the tensor that a peer packed as `packed`: of `dtype` and `shape`, not empty."""


def byte_view(array: Array) -> Array:
    """The bytes of the C-contiguous `array`."""
    return array.reshape(-1).view(np.uint8)


def check_packed(packed: Array, dtype: str) -> None:
    """Raise `ValueError` unless `packed` has this dtype and one axis."""
    if packed.dtype.name != dtype or packed.ndim != 1:
        raise ValueError(f"{dtype} of one axis expected, {packed.dtype.name}{list(packed.shape)} came")
