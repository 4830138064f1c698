"""The models of a server: from flags, or from a `ModelServerConfig` in protobuf's text form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2 as pb

from transports.errors import UsageError


@dataclass(frozen=True)
class Model:
    """A model, the folder of its versions, and the versions to serve, lowest first.

    Raises `UsageError` if the folder of a version holds no SavedModel.
    """

    name: str
    folder: Path
    versions: tuple[int, ...]

    def __post_init__(self) -> None:
        for version in self.versions:
            if not (file := self.folder / str(version) / "saved_model.pb").is_file():
                raise UsageError(f"model {self.name!r}: {file} does not exist; write it with tf.saved_model.save")

    @classmethod
    def latest(cls, name: str, folder: Path) -> Model:
        """The highest version, TensorFlow Serving's default policy. Raises `UsageError` if there is none."""
        return cls(name, folder, (_present(name, folder)[-1],))


def read_config(path: Path) -> tuple[Model, ...]:
    """The models of a `ModelServerConfig`. Raises `UsageError` for a file without models, or with a model twice."""
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelServerConfig())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be read") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no ModelServerConfig in text form: {error}") from error
    models = tuple(_model(entry) for entry in config.model_config_list.config)
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{path} names {'one model twice' if names else 'no model'}; name each once")
    return models


def write_config(models: Mapping[str, Path], file: Path) -> None:
    """Write a `ModelServerConfig` with every version of `models` (name -> absolute folder of its versions)."""
    config = pb.ModelServerConfig()
    for name, folder in models.items():
        entry = config.model_config_list.config.add(name=name, base_path=str(folder), model_platform="tensorflow")
        entry.model_version_policy.all.SetInParent()
    file.write_text(text_format.MessageToString(config), encoding="utf-8")


def _model(entry: pb.ModelConfig) -> Model:
    folder = Path(entry.base_path)
    if not folder.is_absolute():
        raise UsageError(f"model {entry.name!r}: base_path must be absolute, and is {entry.base_path!r}")
    policy = entry.model_version_policy
    present = _present(entry.name, folder)
    if policy.HasField("all"):
        return Model(entry.name, folder, tuple(present))
    if not policy.HasField("specific"):
        return Model(entry.name, folder, tuple(present[-(policy.latest.num_versions or 1) :]))
    chosen = set(policy.specific.versions)
    if missing := chosen.difference(present):
        raise UsageError(f"model {entry.name!r} has no version {min(missing)} below {folder}; there: {present}")
    return Model(entry.name, folder, tuple(sorted(chosen)))


def _present(name: str, folder: Path) -> list[int]:
    """The versions of the model, lowest first. Raises `UsageError` if there is none."""
    versions = [int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise UsageError(f"no version of model {name!r} below {folder}: a SavedModel lies in {folder}/<number>/")
    return sorted(versions)
