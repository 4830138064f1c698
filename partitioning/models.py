"""Loading a model: by its name in `keras.applications`, or from a file. Every load makes a new model.

Randomly initialised weights are calibrated (`partitioning.calibration`): in an untrained deep model activations shrink
until all outputs are alike, and a comparison of outputs would not detect a wrong partition.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import socket
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import numpy.typing as npt

from partitioning.calibration import calibrate, views
from partitioning.errors import PartitionError, import_modules, suggest
from partitioning.keras_internals import download_target, fresh_names, is_keras_operation, unmade_weights
from partitioning.options import MODEL_FILES
from partitioning.program import Program, read

Images = npt.NDArray[Any]

SHAPES: Mapping[str, tuple[int, int, int]] = dict.fromkeys(
    ["MobileNetV3Large", "MobileNetV3Small", "MobileNet", "MobileNetV2"], (224, 224, 3)
)
"""The image size of the pretrained weights, for models for which Keras leaves it open or guesses it."""

PATIENCE = 20.0
"""Seconds without data after which a download fails."""

MESSAGE = 300
"""The most characters of an error text about a file."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, the preprocessing of its inputs, and the settings with which it was loaded.

    `preprocess` takes float32 RGB images in 0..255, (batch, height, width, 3), and does not change its argument. It is
    `None` for a model from a file.
    """

    name: str
    model: keras.Model
    preprocess: Callable[[Images], Images] | None
    imports: tuple[str, ...] = ()
    trust: bool = False

    def read(self, absent: Collection[str] = ()) -> Program:
        """The model's program without its inputs `absent` (`partitioning.program.read`). Raises `PartitionError`."""
        return read(self.model, self.imports, trust=self.trust, absent=absent)


def load(
    name_or_path: str,
    weights: str = "random",
    seed: int = 0,
    calibrate_with: Images | None = None,
    imports: Sequence[str] = (),
    *,
    trust: bool = False,
) -> LoadedModel:
    """The model of that name in `keras.applications`, or the model in a `.keras` or `.h5` file with its weights.

    `weights` are `random` (drawn with `seed`, which also seeds this process's global generators, and calibrated) or
    `imagenet`. `calibrate_with` are RGB images in 0..255 of any size, (batch, height, width, 3), to calibrate with;
    None: generated images. `imports` are modules to import first, which register the classes of the file. `trust` runs
    code that is pickled in the file (Lambda layers). Raises `PartitionError`.
    """
    if weights not in ("random", "imagenet"):
        raise PartitionError(
            f"no weights {weights!r}{suggest(weights, ['random', 'imagenet'])}; valid: random, imagenet"
        )
    import_modules(imports)
    if name_or_path.endswith(MODEL_FILES) or "/" in name_or_path:
        return _from_file(Path(name_or_path), tuple(imports), trust)
    return _application(name_or_path, weights, seed, calibrate_with)


def weights_of(name_or_path: str) -> int:
    """The number of weights of the model that `load` would make, or its bytes over four for a file.

    0 for a name or a path that `load` refuses.
    """
    if name_or_path in application_names():
        return unmade_weights(lambda: getattr(keras.applications, name_or_path)(weights=None))
    try:
        return Path(name_or_path).stat().st_size // 4
    except (OSError, ValueError):
        return 0


def application_names() -> list[str]:
    """Every model in `keras.applications`."""
    members = vars(keras.applications).items()
    return sorted(name for name, value in members if name[:1].isupper() and inspect.isfunction(value))


def _application(name: str, weights: str, seed: int, images: Images | None) -> LoadedModel:
    names = application_names()
    if name not in names:
        raise PartitionError(
            f"no model {name!r} in keras.applications{suggest(name, names)}; or give the path of a .keras or .h5 file. "
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
    preprocess_input = importlib.import_module(build.__module__).preprocess_input  # Keras defines both in one module

    def preprocess(images: Images) -> Images:
        return np.asarray(preprocess_input(images.astype("float32", copy=True)))

    if weights == "random":
        calibrate(read(model), [preprocess(views(images, model.inputs[0].shape, seed))])
    return LoadedModel(name, model, preprocess)


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
    """Set the process-wide default timeout during the block: Keras's downloads have none of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_file(path: Path, imports: tuple[str, ...], trust: bool) -> LoadedModel:
    if path.suffix not in MODEL_FILES:
        raise _refused(path, "is no model file; write the model with model.save('name.keras')")
    try:
        present, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # For a name that no file can have.
        present = folder = False
    if not present:
        raise _refused(path, "is a folder; give the file that model.save wrote" if folder else "does not exist")
    try:
        with fresh_names():
            model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
    # Keras raises almost any exception for a broken file.
    except Exception as error:
        raise _refused(path, _reason(path, str(error))) from error
    if not isinstance(model, keras.Model):
        raise _refused(path, f"holds a {type(model).__name__}, not a model; save a keras.Model")
    return LoadedModel(path.stem, model, None, imports, trust)


def _refused(path: Path, reason: str) -> PartitionError:
    """The error for `path`, on at most `MESSAGE` characters; the beginning of a long path is left out first."""
    text, room = str(path), max(40, MESSAGE - 1 - len(reason))
    text = text if len(text) <= room else f"...{text[3 - room :]}"
    return PartitionError(f"{text} {reason}"[:MESSAGE])


def _reason(path: Path, message: str) -> str:
    """Why Keras cannot load the file, on one line."""
    version, config = _described(path)
    if config is None:
        form = "the .keras format (a zip archive)" if path.suffix == ".keras" else "the HDF5 format of a whole model"
        return f"is not in {form}; write it with model.save('name.keras')"
    made = f"(written by Keras {version})"
    if missing := re.search(r"Could not locate (?:class|function) '([^']+)'|Unknown \w+: '([^']+)'", message):
        name = (missing[1] or missing[2]).rpartition(">")[2]
        if is_keras_operation(name):
            return f"{made} holds the Keras operation {name!r}, which HDF5 cannot; save it as a .keras file"
        quoted = r"['\"]([^'\"]+)"
        package = re.search(rf"{quoted}>{name}['\"]", message + config)
        module = re.search(rf"'module': {quoted}['\"], 'class_name': '{name}'", message)
        place = f" of package {(package or module)[1]!r}" if package or module else ""  # type: ignore[index]
        return f"{made} needs the class {name!r}{place}; give the module that registers it: --import MODULE"
    pickled = re.search(r'"class_name": *"(Lambda|__lambda__)"', config)
    if pickled and re.search("lambda", message, re.IGNORECASE):
        what = "Lambda layer" if pickled[1] == "Lambda" else "lambda function"
        return (
            f"{made} holds a {what}, which is pickled code and is not run; --trust-model runs it, or build the "
            "model with keras.ops or a registered layer"
        )
    return f"{made} cannot be loaded: {' '.join(message.split())}"


def _described(path: Path) -> tuple[str, str | None]:
    """The Keras version that wrote the file, and the model's configuration as JSON; `None` if the file has none."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as file:
                version = json.loads(file.read("metadata.json")).get("keras_version", "unknown")
                return str(version), file.read("config.json").decode()
        with h5py.File(path) as file:
            version, config = file.attrs.get("keras_version", "unknown"), file.attrs["model_config"]
            return str(version), config if isinstance(config, str) else config.decode()
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return "unknown", None
