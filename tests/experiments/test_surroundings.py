"""Runs in surroundings that differ from a developer's: settings of Keras, names of files, locale, folders, disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiments import run
from experiments.ladder import __main__ as ladder
from experiments.spec.experiment import PHOTOGRAPH
from experiments.spec.flags import parse
from experiments.store import environment
from experiments.threads import __main__ as threads
from partitioning import keras_settings, show
from tests.running import ROOT
from transports.errors import UsageError

COMMANDS = {"run": run.main, "ladder": ladder.main, "threads": threads.main, "show": show.main}
KERAS: Mapping[str, tuple[dict[str, object] | str, str, str]] = {
    "another backend": ({"backend": "torch"}, "", "backend in {file}: 'torch' cannot be used; valid: tensorflow; set"),
    "another backend, by variable": ({}, "jax", "KERAS_BACKEND: 'jax' cannot be used; valid: tensorflow; set KERAS_B"),
    "channels first": (
        {"image_data_format": "channels_first"},
        "",
        "image_data_format in {file}: 'channels_first' cannot be used; valid: channels_last; change it, or set KERAS_H",
    ),
    "another type": ({"floatx": "float16"}, "", "floatx in {file}: 'float16' cannot be used; valid: float32; change"),
    "no number": ({"epsilon": 1}, "", "{file}: Keras needs an object with numbers such as 1e-7 for epsilon; change"),
    "no object": ("[]", "", "{file}: Keras needs an object with numbers"),
    "a folder": ("", "", "{file}: Keras cannot read its settings: Is a directory; change it"),
}


@pytest.mark.parametrize("case", KERAS)
@pytest.mark.parametrize("command", COMMANDS)
def test_settings_of_keras_that_cannot_be_used_are_refused(
    command: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, backend, message = KERAS[case]
    file = tmp_path / "keras.json"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    if not settings and not backend:
        file.unlink()
        file.mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert COMMANDS[command]([]) == 2
    assert message.format(file=file) in capsys.readouterr().err.splitlines()[-1]


def test_other_settings_of_keras_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert keras_settings.settings() == keras_settings.DEFAULTS
    (tmp_path / "keras.json").write_text('{"backend": "jax", "epsilon": 1e-6, "max_epochs": 3}')
    keras_settings.check()  # the variable overrides the file
    environment.begin(tmp_path, {"kind": "sizes"}, [])
    assert environment.read(tmp_path)["keras"] == {**keras_settings.DEFAULTS, "epsilon": 1e-6}


STRANGE = {
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "LC_ALL": "C",
    "HOME": "/proc/nowhere",
    "NO_COLOR": "1",
    "PATH": os.environ["PATH"],
}
"""The whole environment: an ASCII locale, a HOME that cannot be written, no colours."""


def test_names_of_files_may_be_any_bytes_in_any_locale(model: Path, tmp_path: Path) -> None:
    mine, image, out = (tmp_path / os.fsdecode(name) for name in (b"m \xff.keras", b"i \xff.jpg", b"o \xff"))
    shutil.copy(model, mine)
    shutil.copy(PHOTOGRAPH, image)
    words = ["--transport", "tcp", "--mode", "submodel", "--servers", "1", "--runs", "1"]
    command = [sys.executable, "-m", "experiments.run", *words, "--model", mine, "--input", image]
    (temporary := tmp_path / "tmp").mkdir()
    env = STRANGE | {"TMPDIR": str(temporary)}
    done = subprocess.run([*command, "--out", out], cwd=ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"/o \\udcff (begin with report.html)" in done.stdout
    assert b"\x1b" not in done.stdout
    record = environment.read(out)
    assert (record["experiment"]["model"], record["experiment"]["input"]) == ("m \\udcff.keras", "i \\udcff.jpg")
    assert record["command"][-1] == "o \\udcff"
    assert "Model m \\\\udcff.keras " in (out / "report.md").read_text(encoding="utf-8")
    assert [*temporary.iterdir()] == []


@pytest.mark.parametrize("flag", ["--label", "--title", "--host", "--tls-key"])
def test_other_texts_are_utf_8(flag: str) -> None:
    with pytest.raises(UsageError, match=rf"^{flag} 'a\\udcff': not UTF-8; only names of files may be other bytes$"):
        parse([flag, "a\udcff"])


READ_ONLY = 'mount -t tmpfs -o ro none "$1" && exec "$0" -m experiments.run --out "$1/results"'


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    """A read-only disk, in a mount namespace of its own."""
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, sys.executable, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 2:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    why = "(Read-only file system); give another folder"
    expected = f"error: --out {tmp_path}/results: {tmp_path} cannot be written to {why}\n"
    assert done.stderr == expected
