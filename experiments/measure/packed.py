"""Checks, before a process starts, that a cell's packing has something to pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.partition import Partition
from experiments.spec.experiment import Cell
from transports import packing
from transports.base import Array
from transports.errors import UsageError
from transports.packing.base import Packer

Inputs = Mapping[int, Sequence[Mapping[str, Array]]]


def check(partitions: Mapping[Cell, Partition], inputs: Inputs) -> None:
    """Raise `UsageError` for a cell whose packing applies to none of the tensors that cross, or whose packing needs an
    image and gets another input.

    `inputs`: batch -> variants of the input.
    """
    for cell, partition in partitions.items():
        if (packer := packing.load(cell.wire)) is None:
            continue
        if packer.answers:
            _check_crossing(packer, partition)
        else:
            _check_images(packer, inputs[cell.batch])


def _check_crossing(packer: Packer, partition: Partition) -> None:
    edges = partition.plan.edges.values()
    if not any(packer.takes(edge.dtype, edge.shape) for edge in edges):
        dtypes = ", ".join(dict.fromkeys(edge.dtype for edge in edges))
        text = (
            f"--wire {packer.wire}: no tensor of the plan {partition.name!r} is one that it packs (they are {dtypes})"
        )
        raise UsageError(f"{text}; valid for every dtype: lz4, zstd, blosc2")


def _check_images(packer: Packer, variants: Sequence[Mapping[str, Array]]) -> None:
    found = [
        (name, tensor)
        for each in variants
        for name, tensor in each.items()
        if packer.takes(tensor.dtype.name, tensor.shape)
    ]
    if not found:
        raise UsageError(
            f"--wire {packer.wire}: the model takes no image, of shape [n, height, width, 1 or 3]; leave it out"
        )
    for name, tensor in found:
        try:
            packer.pack(tensor)
        except ValueError as error:
            raise UsageError(f"--wire {packer.wire}: input {name!r}: {error}; give pixels (--scale 0..255)") from None
