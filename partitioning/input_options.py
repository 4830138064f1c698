"""The options that describe the inputs of a model's requests. Imports no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol

from partitioning.options import INPUT, option

PHOTOGRAPH = Path(__file__).parent / "data" / "astronaut.jpg"
"""The bundled photograph; `data/README.md` names its source and licence."""
VARIANTS = 4
"""How many different inputs are made from one photograph, or from seeded numbers."""
PIXELS = "0..255"
"""The scale of images as they are."""
SCALES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    PIXELS: ((0.0,), (1.0,)),
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Scale -> (mean, deviation), of all channels or of each: a pixel in 0..255 becomes (pixel - mean) / deviation."""

Input = Annotated[
    str,
    option(
        "an image, a folder of images, or arrays in a .npz file (by input name) or a .npy file (one input)",
        INPUT,
        metavar="PATH",
        shown="the bundled photograph",
        min_length=1,
    ),
]
Scale = Annotated[
    str,
    option(
        "values of image inputs; imagenet: minus the mean of ImageNet, by its deviation. A named model has its own "
        "preprocessing of 0..255",
        INPUT,
        valid=SCALES,
    ),
]
Extent = Annotated[
    tuple[str, ...],
    option(
        "extent of an input's open axis other than the batch; NAME:AXIS=N where several are open (batch: 0); may be "
        "repeated",
        INPUT,
        metavar="NAME=N",
        min_length=1,
        repeat=True,
        shown="16, of an image 224",
    ),
]
Absent = Annotated[
    tuple[str, ...],
    option(
        "leave out an input that is optional in the model; may be repeated",
        *(INPUT, "client, nodes, model servers"),
        metavar="NAME",
        min_length=1,
        repeat=True,
    ),
]


class InputSettings(Protocol):
    """Settings that determine the values in requests: an experiment, or the options of `splitbench show`."""

    @property
    def input(self) -> str: ...

    @property
    def scale(self) -> str: ...

    @property
    def extent(self) -> tuple[str, ...]: ...
