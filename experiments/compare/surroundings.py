"""Decides from the differences between their environments whether two runs may be compared.

A difference in anything on which x / Local depends forbids a comparison: processor, cores, versions of packages that
compute and carry tensors, thread settings, model, input, machines, options. Differences that also occur between
repeated runs are only mentioned: load, time, commit, kernel, memory, length of the run. An entry that one record lacks,
because an earlier version wrote it, is only mentioned as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.spec.experiment import Experiment
from experiments.spec.settings import to_record
from transports.limits import TLS_FILES

VERSIONS = (
    *("python", "tensorflow", "keras", "numpy", "ml_dtypes", "msgspec", "grpcio", "protobuf", "rpyc", "ray"),
    *("uvicorn", "httptools", "urllib3", "orjson", "pybase64", "tensorflow-serving-api"),
)
"""Packages that compute or carry tensors; other packages are only mentioned."""
SYSTEM = ("system", "machine", "implementation", "loopback_mtu")
MENTIONED = (
    *("runs", "until_stable", "limit", "warmup", "seed", "timeout", "lease"),
    *("trust_model", "insecure", "versions", "profile"),
)
"""Settings of an experiment on which x / Local does not depend. A difference in any other forbids a comparison."""
ELSEWHERE = ("cells", "title", "ssh", "threads", "option", "hosts", "machines", *TLS_FILES)
"""Settings that are not compared themselves, or are compared under another name."""
VARIABLE = "variable "
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Difference:
    """An entry that differs; `a` and `b` are its values as text."""

    name: str
    a: str
    b: str
    forbids: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.a} in A, {self.b} in B"


def differences(records: tuple[Mapping[str, Any], ...], experiments: tuple[Experiment, ...]) -> list[Difference]:
    """The differences between two runs, those that forbid a comparison first."""
    sides = [_entries(record, experiment) for record, experiment in zip(records, experiments, strict=True)]
    names = dict.fromkeys(name for side in sides for name in side)
    found = []
    for name in names:
        (a, forbids), (b, also) = (side.get(name, _absent(name)) for side in sides)
        if a != b:
            found.append(Difference(name, _text(a), _text(b), forbids and also))
    return sorted(found, key=lambda each: not each.forbids)


def _entries(record: Mapping[str, Any], experiment: Experiment) -> dict[str, tuple[Any, bool]]:
    """Name of each entry -> its value, and whether another value forbids a comparison."""
    settings = to_record(experiment)
    return {
        **_part(record, "processor", "processor"),
        **_part(record, "control_group", "control group"),
        **_versions(record.get("versions") or {}),
        **_part(record, "threads", "threads of TensorFlow"),
        **_part(record, "keras", "Keras"),
        **{f"system, {name}": (value, name in SYSTEM) for name, value in (record.get("system") or {}).items()},
        **{name: (record.get(name) or {}, True) for name in ("cards", "model_server")},
        **_machines(record),
        **{name: (value, name not in MENTIONED) for name, value in settings.items() if name not in ELSEWHERE},
        "TLS": ("mutual" if experiment.tls_cert else "none", True),
        "options": (settings["option"], True),
        "hosts": (settings["machines"] or settings["hosts"], True),
        "started": (record.get("started"), False),
        "commit": (record.get("commit"), False),
        "code": (record.get("code") or NOT_RECORDED, False),
        "memory (bytes)": (record.get("memory_bytes"), False),
        "load at start": (record.get("load_at_start"), False),
        **{f"{VARIABLE}{name}": (text, name != LOG_LEVEL) for name, text in (record.get("variables") or {}).items()},
    }


def _absent(name: str) -> tuple[str, bool]:
    """The text for an entry that one record lacks, and whether it forbids. A variable that is missing was not set."""
    return ("not set", True) if name.startswith(VARIABLE) else (NOT_RECORDED, False)


def _versions(versions: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
    """The entries of versions. A package that was not installed carried nothing in its run, so it does not matter to
    cells in both runs."""
    return {f"version of {name}": (found, name in VERSIONS and found is not None) for name, found in versions.items()}


def _part(record: Mapping[str, Any], name: str, title: str) -> dict[str, tuple[Any, bool]]:
    part = {key: value for key, value in (record.get(name) or {}).items() if key != "malloc"}  # a setting of the run
    return {f"{title}, {key}": (value, True) for key, value in part.items()}


def _machines(record: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
    """The processor and the versions of each host, and the settings that shaped the links; not the measured links."""
    machines = record.get("machines") or {}
    entries: dict[str, tuple[Any, bool]] = {"shaped links": (machines.get("shaped", "none"), True)}
    for host, facts in machines.get("hosts", {}).items():
        entries |= {f"host {host}, {name}": (facts[name], True) for name in ("processor", "versions") if name in facts}
    return entries


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None or value == "" else str(value)
