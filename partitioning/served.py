"""What a plan is called where stages are SavedModels behind a model server. Imports no TensorFlow.

    FOLDER/plan.json         the plan, and under `serving` the names below
    FOLDER/<model>/1/        a stage as a SavedModel
    FOLDER/models.config     for one server that holds every stage
    FOLDER/server-<i>.config for the i-th of several servers that share the stages

A tensor `a/b:1` and a stage `a/b` have names that the key of a signature and the name of a model may not have. `escape`
makes legal ones of them, of which no two are alike; a name that is legal is kept, so that most are.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
        """The names of `plan`'s own. Where one server holds several plans, each has a `family` name without a dot."""
        before = f"{model_name(family)}." if family else ""
        return cls(
            plan,
            {stage.name: before + model_name(stage.name) for stage in plan.stages},
            {tensor: signature_key(tensor) for tensor in plan.edges},
        )

    def model_folder(self, folder: Path, stage: Stage) -> Path:
        """Where the only version of the stage's model lies below `folder`."""
        return folder / self.models[stage.name] / VERSION

    def write(self, folder: Path, placement: Placement) -> None:
        """Write the plan with these names, and the files that name the models to servers."""
        record = json.loads(self.plan.to_json()) | {"serving": {"models": self.models, "keys": self.keys}}
        (folder / PLAN).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(config_of(dict.fromkeys(self.models.values(), folder)), encoding="utf-8")
        for server in sorted(set(placement.values())):
            (folder / server_config(server)).write_text(
                config_of(self.held(server, placement, folder)), encoding="utf-8"
            )

    def held(self, server: int, placement: Placement, folder: Path) -> dict[str, Path]:
        """The models of `server`, each with the `folder` below which it lies."""
        stages = (stage.name for stage in self.plan.stages if placement[stage.name] == server)
        return {self.models[stage]: folder for stage in stages}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote. Raises `PartitionError` where the folder holds no plan with such names."""
        path = folder / PLAN
        try:
            text = path.read_text(encoding="utf-8")
            names = json.loads(text)["serving"]
            return cls(Plan.from_json(text), names["models"], names["keys"])
        except OSError as error:
            raise PartitionError(f"{path}: {error.strerror}; write it with python -m partitioning.export") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise PartitionError(
                f"{path} names no models ({type(error).__name__}: {error}); export it again"
            ) from error


def server_config(server: int) -> str:
    """The name of the file for the `server`-th of several servers."""
    return f"server-{server}.config"


def config_of(models: Mapping[str, Path]) -> str:
    """A `ModelServerConfig` in protobuf's text form, for models by the folder below which each lies.

    Servers want absolute paths: a moved folder needs a new one.
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
    """The tensor's name as a key of a signature: TensorFlow wants what could name a parameter in Python."""
    key = escape(tensor, r"[^A-Za-z0-9_]|^[^A-Za-z]")
    return escape(key, "^.") if keyword.iskeyword(key) or key in RESERVED else key


def model_name(stage: str) -> str:
    """The stage's name as that of a model, which is part of a path and of an address."""
    return escape(stage, r"[^A-Za-z0-9_.-]|^\.")


RESERVED = frozenset({"self"})
"""Parameters of the methods that pass a signature's inputs on by name."""


def escape(name: str, illegal: str) -> str:
    """`name` with each character that `illegal` matches, and each Z, as its number in hexadecimal between two Z."""
    return re.sub(f"Z|{illegal}", lambda found: f"Z{ord(found[0]):x}Z", name)


def unescape(name: str) -> str:
    """What was escaped; the inverse of `signature_key` and of `model_name`."""
    return re.sub(r"Z([0-9a-f]+)Z", lambda found: chr(int(found[1], 16)), name)
