"""The names of a plan's stages and tensors where stages are SavedModels in a model server. Imports no TensorFlow.

    FOLDER/plan.json         the plan, and under `serving` the names below
    FOLDER/<model>/1/        a stage as a SavedModel
    FOLDER/models.config     for one server that holds every stage
    FOLDER/server-<i>.config for the i-th of several servers that share the stages

Names such as `a/b:1` (a tensor) and `a/b` (a stage) are no legal keys of signatures or names of models. `escape` maps
them to legal names, one to one, and leaves most legal names as they are.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from partitioning.errors import PartitionError
from partitioning.placement import Placement
from partitioning.plan import Plan, Stage

PLAN = "plan.json"
CONFIG = "models.config"
VERSION = "1"


@dataclass(frozen=True)
class Served:
    """A plan with its stages' names as models, and its tensors' names as keys of signatures."""

    plan: Plan
    models: Mapping[str, str]
    keys: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan, family: str = "") -> Self:
        """Name the stages and tensors of `plan`. A `family` without a dot keeps plans apart that share a server."""
        before = f"{model_name(family)}." if family else ""
        return cls(
            plan,
            {stage.name: before + model_name(stage.name) for stage in plan.stages},
            {tensor: signature_key(tensor) for tensor in plan.edges},
        )

    def model_folder(self, folder: Path, stage: Stage) -> Path:
        """The folder of the stage's model, of which there is one version, below `folder`."""
        return folder / self.models[stage.name] / VERSION

    def write(self, folder: Path, placement: Placement) -> None:
        """Write the plan with these names, and the configuration files of the servers. Raises `OSError`."""
        record = msgspec.to_builtins(self.plan) | {"serving": {"models": self.models, "keys": self.keys}}
        (folder / PLAN).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(config_of(dict.fromkeys(self.models.values(), folder)), encoding="utf-8")
        for server in sorted(set(placement.values())):
            (folder / server_config(server)).write_text(
                config_of(self.held(server, placement, folder)), encoding="utf-8"
            )

    def held(self, server: int, placement: Placement, folder: Path) -> dict[str, Path]:
        """The models of `server`, each with `folder`, below which it lies."""
        stages = (stage.name for stage in self.plan.stages if placement[stage.name] == server)
        return {self.models[stage]: folder for stage in stages}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote. Raises `PartitionError` where the folder holds no plan with such names."""
        path = folder / PLAN
        try:
            text = path.read_text(encoding="utf-8")
            names = msgspec.convert(json.loads(text)["serving"], _Names)
            served = cls(Plan.from_json(text), names.models, names.keys)
            if served.models.keys() != served.plan.by_name.keys() or served.keys.keys() != served.plan.edges.keys():
                raise ValueError("its names are not those of its stages and tensors")
        except OSError as error:
            raise PartitionError(f"{path}: {error.strerror}; write it with python -m partitioning.export") from error
        except PartitionError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError, msgspec.ValidationError) as error:
            raise PartitionError(
                f"{path} names no models ({type(error).__name__}: {error}); export it again"
            ) from error
        return served


class _Names(msgspec.Struct):
    models: dict[str, str]
    keys: dict[str, str]


def server_config(server: int) -> str:
    """The name of the file for the `server`-th of several servers."""
    return f"server-{server}.config"


def config_of(models: Mapping[str, Path]) -> str:
    """A `ModelServerConfig` in protobuf's text form: model -> the folder below which it lies.

    It holds absolute paths, as servers require, so a folder that is moved needs a new one.
    """
    entries = (
        f"  config {{ name: {_quoted(model)} base_path: {_quoted(str(folder.absolute() / model))} "
        'model_platform: "tensorflow" }\n'
        for model, folder in models.items()
    )
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def signature_key(tensor: str) -> str:
    """The tensor's name as a key of a signature, which TensorFlow requires to be a legal parameter name in Python."""
    key = escape(tensor, r"[^A-Za-z0-9_]|^[^A-Za-z]")
    return escape(key, "^.") if keyword.iskeyword(key) or key in RESERVED else key


def model_name(stage: str) -> str:
    """The stage's name as the name of a model, which is part of a path and of a URL."""
    return escape(stage, r"[^A-Za-z0-9_.-]|^\.")


RESERVED = frozenset({"self"})
"""Parameters of the methods that pass a signature's inputs on by name."""


def escape(name: str, illegal: str) -> str:
    """`name` with each Z and each character that `illegal` matches replaced by its hexadecimal code between two Z."""
    return re.sub(f"Z|{illegal}", lambda found: f"Z{ord(found[0]):x}Z", name)
