"""Lossless packers, for every dtype: the libraries as their users call them, on the caller's thread."""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from transports.base import Array
from transports.packing.base import Dtype, Packer, Shape, byte_view, check_packed


@dataclass(frozen=True)
class Lossless(Packer):
    """Packs the bytes of a tensor. Subclasses compress them; `decompress` gets the size of the result."""

    lossless = True

    @classmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        return True

    def pack(self, tensor: Array) -> Array:
        return np.frombuffer(self.compress(byte_view(tensor).data, tensor.itemsize), np.uint8)

    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        check_packed(packed, "uint8")
        return np.frombuffer(self.decompress(packed.data, math.prod(shape) * dtype.itemsize), np.uint8)

    @abstractmethod
    def compress(self, data: memoryview, itemsize: int) -> Any:
        """The compressed `data`, as a buffer."""

    @abstractmethod
    def decompress(self, data: memoryview, size: int) -> Any:
        """The decompressed `data`, a buffer of `size` bytes. Raises an exception if the size is another one."""


class Lz4(Lossless):
    """LZ4 blocks without a header."""

    name = "lz4"
    libraries: ClassVar[Mapping[str, str]] = {"lz4": "'lz4>=4'"}

    def compress(self, data: memoryview, itemsize: int) -> Any:
        import lz4.block

        return lz4.block.compress(data, store_size=False)

    def decompress(self, data: memoryview, size: int) -> Any:
        import lz4.block

        return lz4.block.decompress(data, uncompressed_size=size)


class Zstd(Lossless):
    """Zstandard frames (RFC 8878), compressed with level 3, the library's default."""

    name = "zstd"
    libraries: ClassVar[Mapping[str, str]] = {"zstandard": "'zstandard>=0.23'"}

    def compress(self, data: memoryview, itemsize: int) -> Any:
        import zstandard

        return zstandard.ZstdCompressor().compress(data)  # a compressor serves one thread at a time

    def decompress(self, data: memoryview, size: int) -> Any:
        import zstandard

        if zstandard.get_frame_parameters(data).content_size != size:  # the library would allocate the claimed size
            raise ValueError("the frame claims another size")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)


class Blosc2(Lossless):
    """Blosc2 chunks: the bytes of all elements shuffled by significance, then compressed by Zstandard with level 1.

    A chunk's header may name plug-ins, for which the library starts an interpreter, or ask for uninitialised memory. So
    `decompress` refuses every header that `compress` would not write.
    """

    name = "blosc2"
    libraries: ClassVar[Mapping[str, str]] = {"blosc2": "'blosc2>=3'"}

    HEADER: ClassVar[int] = 32
    """Size of the header in bytes. Its layout: c-blosc2, README_CHUNK_FORMAT.rst."""
    PIPELINE: ClassVar[bytes] = bytes([1, 0, 0, 0, 0, 0, 5, *[0] * 8])
    """Bytes 16 to 30 of the header: one filter (shuffle), codec Zstandard, and no parameters."""
    SPECIAL: ClassVar[frozenset[int]] = frozenset({0x00, 0x10, 0x20, 0x30})
    """Valid values of byte 31: compressed data, all zeros, all NaN, or one value repeated."""
    FORMATS: ClassVar[frozenset[int]] = frozenset({0, 4})
    """Valid values of bits 5 to 7 of byte 2: copied bytes, or Zstandard."""

    def compress(self, data: memoryview, itemsize: int) -> Any:
        import blosc2

        codec, filters = blosc2.Codec.ZSTD, [blosc2.Filter.SHUFFLE]
        return blosc2.compress2(
            data, codec=codec, clevel=1, typesize=itemsize, filters=filters, filters_meta=[0], nthreads=1
        )

    def decompress(self, data: memoryview, size: int) -> Any:
        import blosc2

        chunk = data.tobytes()
        if len(chunk) < self.HEADER:
            raise ValueError("the chunk has no header")
        written, _, packed = struct.unpack_from("<iii", chunk, 4)
        known = chunk[16:31] == self.PIPELINE and chunk[31] in self.SPECIAL and chunk[2] >> 5 in self.FORMATS
        if not known or written != size or packed != len(chunk):
            raise ValueError("the header of the chunk is another one")
        out = np.empty(size, np.uint8)
        blosc2.decompress2(chunk, dst=out, nthreads=1)
        return out
