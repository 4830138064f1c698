"""The names of a plan's stages and tensors in a model server, which has a model for each stage. Imports no TensorFlow.

    FOLDER/plan.json         the plan, and under `serving` these names
    FOLDER/<model>/1/        a stage as a SavedModel
    FOLDER/models.config     configuration of one model server that holds every stage
    FOLDER/server-<i>.config configuration of the i-th of several model servers

Names such as `a/b:1` (a tensor) and `a/b` (a stage) are illegal as keys of signatures and names of models. `escape`
maps them to legal names, one to one, and leaves most legal names unchanged.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
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
    """A plan; `models`: stage -> name of its model; `keys`: tensor -> its key in signatures."""

    plan: Plan
    models: Mapping[str, str]
    keys: Mapping[str, str]

    @classmethod
    def of(cls, plan: Plan, family: str = "") -> Self:
        """Name the stages and tensors of `plan`. The prefix `family` distinguishes plans that share a model server."""
        before = f"{model_name(family)}." if family else ""
        return cls(
            plan,
            {stage.name: before + model_name(stage.name) for stage in plan.stages},
            {tensor: signature_key(tensor) for tensor in plan.edges},
        )

    def model_folder(self, folder: Path, stage: Stage) -> Path:
        """The folder of the stage's SavedModel, its model's only version, below `folder`."""
        return folder / self.models[stage.name] / VERSION

    def write(self, folder: Path, placement: Placement) -> None:
        """Write the plan with these names, and the configurations of the model servers. Raises `OSError`."""
        record = msgspec.to_builtins(self.plan) | {"serving": {"models": self.models, "keys": self.keys}}
        (folder / PLAN).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        configs = {CONFIG: dict.fromkeys(self.models.values(), folder)}
        configs |= {
            f"server-{server}.config": self.held(server, placement, folder) for server in set(placement.values())
        }
        for name, models in configs.items():
            (folder / name).write_text(config_of(models), encoding="utf-8")

    def held(self, server: int, placement: Placement, folder: Path) -> dict[str, Path]:
        """The models of `server` by name, each with the folder that contains it."""
        stages = (stage.name for stage in self.plan.stages if placement[stage.name] == server)
        return {self.models[stage]: folder for stage in stages}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The plan and names that `write` wrote to `folder`. Raises `PartitionError` if there are none."""
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


def config_of(models: Mapping[str, Path]) -> str:
    """A `ModelServerConfig` in protobuf's text form. `models`: name -> the folder that contains the model.

    Model servers require absolute paths, so a folder that is moved needs a new configuration.
    """
    quoted = partial(json.dumps, ensure_ascii=False)
    entries = (
        f"  config {{ name: {quoted(model)} base_path: {quoted(str(folder.absolute() / model))} "
        'model_platform: "tensorflow" }\n'
        for model, folder in models.items()
    )
    return f"model_config_list {{\n{''.join(entries)}}}\n"


def signature_key(tensor: str) -> str:
    """The tensor's name as a key of a signature, which must be a legal name of a Python parameter."""
    key = escape(tensor, r"[^A-Za-z0-9_]|^[^A-Za-z]")
    return escape(key, "^.") if keyword.iskeyword(key) or key in RESERVED else key


def model_name(stage: str) -> str:
    """The stage's name as the name of a model, which is part of paths and URLs."""
    return escape(stage, r"[^A-Za-z0-9_.-]|^\.")


RESERVED = frozenset({"self"})
"""Parameters of TensorFlow's own methods that take a signature's inputs by name."""


def escape(name: str, illegal: str) -> str:
    """`name`, in which each Z and each match of `illegal` is replaced by its hexadecimal code between two Z."""
    return re.sub(f"Z|{illegal}", lambda found: f"Z{ord(found[0]):x}Z", name)
