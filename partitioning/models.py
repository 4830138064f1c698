"""Loading a model: a name in `keras.applications`, or a `.keras` file. Every load makes the model afresh.

Randomly initialised weights are calibrated (see `partitioning.calibration`): untrained, the activations of a deep model
shrink until all outputs are alike, and a wrong partition could not be told from a right one.
"""

from __future__ import annotations

import importlib
import inspect
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from partitioning.calibration import calibrate, views
from partitioning.errors import PartitionError, suggest
from partitioning.keras_internals import download_target, fresh_names
from partitioning.program import read

Images = npt.NDArray[Any]

SHAPES: Mapping[str, tuple[int, int, int]] = dict.fromkeys(
    ["MobileNetV3Large", "MobileNetV3Small", "MobileNet", "MobileNetV2"], (224, 224, 3)
)
"""Where Keras leaves height and width open, or guesses them: the size that the weights were trained with."""

PATIENCE = 20.0
"""Seconds that a download may stand still."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what makes its inputs.

    `preprocess` takes float32 RGB images in 0..255, (batch, height, width, 3), and does not change its argument. For
    a `.keras` file it does nothing: such a model has its preprocessing inside, or takes 0..255.
    `input_shapes` are those of `model.inputs`, in order, the batch being `None`.
    """

    name: str
    model: keras.Model
    preprocess: Callable[[Images], Images]
    input_shapes: tuple[tuple[int | None, ...], ...]


def load(
    name_or_path: str, weights: str = "random", seed: int = 0, calibrate_with: Images | None = None
) -> LoadedModel:
    """The model of that name in `keras.applications`, or that of a `.keras` file with the weights in it.

    `weights` are `random` (drawn with `seed`, which also seeds this process's global generators, and calibrated) or
    `imagenet`. `calibrate_with` are RGB images in 0..255 of any size, (batch, height, width, 3), to calibrate with;
    without any, smooth noise does. Raises `PartitionError` that says what to do.
    """
    if weights not in ("random", "imagenet"):
        raise PartitionError(
            f"no weights {weights!r}{suggest(weights, ['random', 'imagenet'])}; valid: random, imagenet"
        )
    if name_or_path.endswith((".keras", ".h5", ".hdf5")) or "/" in name_or_path:
        return _from_file(Path(name_or_path))
    return _application(name_or_path, weights, seed, calibrate_with)


def application_names() -> list[str]:
    """Every model in `keras.applications`."""
    return sorted(name for name, value in vars(keras.applications).items() if _is_builder(name, value))


def _is_builder(name: str, value: Any) -> bool:
    return name[:1].isupper() and inspect.isfunction(value)


def _application(name: str, weights: str, seed: int, images: Images | None) -> LoadedModel:
    names = application_names()
    if name not in names:
        raise PartitionError(
            f"no model {name!r} in keras.applications{suggest(name, names)}; or give the path of a .keras file. "
            f"Valid: {', '.join(names)}"
        )
    build = getattr(keras.applications, name)
    options = {"input_shape": SHAPES[name]} if name in SHAPES else {}
    with fresh_names():
        if weights == "imagenet":
            model = _pretrained(name, lambda: build(weights="imagenet", **options))
        else:
            keras.utils.set_random_seed(seed)
            model = build(weights=None, **options)
    loaded = LoadedModel(name, model, _preprocessing(build), _input_shapes(model))
    if weights == "random":
        calibrate(read(model), [loaded.preprocess(views(images, model.inputs[0].shape, seed))])
    return loaded


def _input_shapes(model: keras.Model) -> tuple[tuple[int | None, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in model.inputs)


def _preprocessing(build: Callable[..., Any]) -> Callable[[Images], Images]:
    """The `preprocess_input` beside the builder, in the module where Keras defines both."""
    preprocess = importlib.import_module(build.__module__).preprocess_input
    return lambda images: np.asarray(preprocess(images.astype("float32", copy=True)))


def _pretrained(name: str, build: Callable[[], keras.Model]) -> keras.Model:
    try:
        with _socket_timeout(PATIENCE):
            return build()
    # `keras.utils.get_file` raises a bare Exception for a failed download, and ValueError for a broken file.
    except Exception as error:
        file = download_target(error)
        place = f"Place that file at {file}, or" if file else "Repair it, or"
        raise PartitionError(f"no imagenet weights for {name}: {error}. {place} use random weights") from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Keras downloads without any timeout; the process-wide default is the only one that it heeds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_file(path: Path) -> LoadedModel:
    if path.suffix != ".keras":
        raise PartitionError(f"{path} is no .keras file; load it where it was made and write it with model.save(...)")
    if not path.is_file():
        raise PartitionError(f"{path} is not there")
    try:
        with fresh_names():
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    # A file of this format can break in as many ways as it has parts, and Keras has no error of its own for it.
    except Exception as error:
        raise PartitionError(_unreadable(path, str(error))) from error
    if not isinstance(model, keras.Model):
        raise PartitionError(f"{path} holds a {type(model).__name__}, not a model; save a keras.Model")
    return LoadedModel(path.stem, model, lambda images: images.astype("float32", copy=True), _input_shapes(model))


def _unreadable(path: Path, reason: str) -> str:
    if "Lambda" in reason or "lambda" in reason:
        return (
            f"{path} holds a Lambda layer, which is pickled code and is not run; "
            "build the model with keras.ops or a registered layer instead, and save it again"
        )
    if not zipfile.is_zipfile(path):
        return f"{path} is not in the .keras format (a zip archive); write it with model.save('name.keras')"
    return f"{path} cannot be loaded: {reason}"
