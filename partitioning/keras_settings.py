"""The user's settings of Keras, read as Keras reads them, but without loading it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partitioning.errors import PartitionError

DEFAULTS: Mapping[str, Any] = {
    "backend": "tensorflow",
    "floatx": "float32",
    "image_data_format": "channels_last",
    "epsilon": 1e-7,
}
FIXED = ("backend", "floatx", "image_data_format")
"""Settings that must have their default."""
REMEDY = "change it, or set KERAS_HOME to a new folder"


def settings() -> dict[str, Any]:
    """The settings in KERAS_BACKEND and the user's keras.json, with defaults for all others.

    Raises `PartitionError` for a keras.json that Keras cannot read.
    """
    path = _file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # Keras takes its defaults then
        found = {}
    except OSError as error:
        raise PartitionError(f"{path}: Keras cannot read its settings: {error.strerror}; {REMEDY}") from error
    if not isinstance(found, dict) or not isinstance(found.get("epsilon", 0.0), float):
        raise PartitionError(f"{path}: Keras needs an object with numbers such as 1e-7 for epsilon; {REMEDY}")
    known = {name: found.get(name, default) for name, default in DEFAULTS.items()}
    return known | {"backend": os.environ.get("KERAS_BACKEND") or known["backend"]}


def check() -> None:
    """Raise `PartitionError` for a setting with which stages cannot be executed."""
    found = settings()
    for name in FIXED:
        if found[name] != DEFAULTS[name]:
            given = name == "backend" and os.environ.get("KERAS_BACKEND")
            where = "KERAS_BACKEND" if given else f"{name} in {_file()}"
            remedy = "set KERAS_BACKEND=tensorflow" if name == "backend" else REMEDY
            raise PartitionError(f"{where}: {found[name]!r} cannot be used; valid: {DEFAULTS[name]}; {remedy}")


def _file() -> Path:
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor the user database names a home folder
        home = Path("~")
    folder = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    return Path(os.environ.get("KERAS_HOME", folder)).expanduser() / "keras.json"
