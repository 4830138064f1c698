"""The contract of a packer: everything that an implementer must read.

Rules:
  - A packed tensor is an array of its own: what unpacking needs besides dtype and shape is among its bytes.
  - `pack` refuses by `ValueError` what would come back as something else than the packer promises.
  - `unpack` takes memory in proportion to the packed bytes and the declared size alone, whatever the bytes claim. For
    bytes that `pack` did not write it may raise any exception; `messages` turns it into a `MalformedMessage`.
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
    """Imported package -> what `pip install` takes for it."""
    answers: ClassVar[bool] = True
    """Whether it packs answers of servers, too."""

    @classmethod
    def parse(cls, argument: str | None) -> Self:
        """The packer with what stands behind the colon; None without a colon. Raises `ValueError`."""
        if argument is not None:
            raise ValueError(f"takes no argument, and has {argument!r}; give {cls.name}")
        return cls()

    @property
    def wire(self) -> str:
        """Name and argument, as `--wire` has them."""
        return self.name

    @classmethod
    @abstractmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        """Whether it packs such tensors; others cross as they are. An open extent of a plan is None."""

    @abstractmethod
    def pack(self, tensor: Array) -> Array:
        """`tensor`, which is C-contiguous and has elements, in fewer bytes. Raises `ValueError`."""

    @abstractmethod
    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        """An array with the bytes of the tensor of `dtype` and `shape`, which has elements, from a peer's `packed`."""


def byte_view(array: Array) -> Array:
    """The bytes of the C-contiguous `array`."""
    return array.reshape(-1).view(np.uint8)


def check_packed(packed: Array, dtype: str) -> None:
    """Raise `ValueError` unless `packed` has this dtype and one axis."""
    if packed.dtype.name != dtype or packed.ndim != 1:
        raise ValueError(f"{dtype} of one axis expected, {packed.dtype.name}{list(packed.shape)} came")
