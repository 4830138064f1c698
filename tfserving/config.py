"""The models that a server holds: from flags, or from a `ModelServerConfig` in protobuf's text form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2 as pb

from transports.errors import UsageError


@dataclass(frozen=True)
class Model:
    """A model, the folder of its versions, and the versions that are served, lowest first.

    Raises `UsageError` if the folder of one of them holds no SavedModel.
    """

    name: str
    folder: Path
    versions: tuple[int, ...]

    def __post_init__(self) -> None:
        for version in self.versions:
            if not (file := self.folder / str(version) / "saved_model.pb").is_file():
                raise UsageError(f"model {self.name!r}: {file} is not there; write it with tf.saved_model.save")

    @classmethod
    def latest(cls, name: str, folder: Path, count: int = 1) -> Model:
        """The `count` highest versions, TensorFlow Serving's default policy. Raises `UsageError` if there is none."""
        return cls(name, folder, tuple(_present(name, folder)[-count:]))


def read_config(path: Path) -> tuple[Model, ...]:
    """The models of a `ModelServerConfig`. Raises `UsageError` for another file, and for one without models."""
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelServerConfig())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that is there") from error
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
    if policy.HasField("specific"):
        return Model(entry.name, folder, _chosen(entry.name, folder, policy.specific.versions))
    if policy.HasField("all"):
        return Model(entry.name, folder, tuple(_present(entry.name, folder)))
    return Model.latest(entry.name, folder, policy.latest.num_versions or 1)


def _chosen(name: str, folder: Path, versions: Sequence[int]) -> tuple[int, ...]:
    present = _present(name, folder)
    if missing := set(versions).difference(present):
        raise UsageError(f"model {name!r} has no version {min(missing)} below {folder}; there: {present}")
    return tuple(sorted(set(versions)))


def _present(name: str, folder: Path) -> list[int]:
    versions = [int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise UsageError(f"no version of model {name!r} below {folder}: a SavedModel lies in {folder}/<number>/")
    return sorted(versions)
