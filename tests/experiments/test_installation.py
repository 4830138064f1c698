"""Installing: the Pythons that `make` accepts, and a wheel used beside folders with the names of our packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store import environment
from tests.running import ROOT

OTHER = """#!{python}
import runpy, sys
sys.version_info = {version}
runpy.run_path(sys.argv[1])
"""


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0), (4, 0, 0)])
def test_make_names_the_pythons_that_tensorflow_has_wheels_for(version: tuple[int, ...], tmp_path: Path) -> None:
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "tools/python_version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (other := tmp_path / "python").write_text(OTHER.format(python=sys.executable, version=version))
    other.chmod(0o700)
    command = ["make", "--silent", "setup", f"PYTHON={other}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    first, *_ = done.stderr.splitlines()
    found = ".".join(map(str, version[:2]))
    assert first.startswith(f"error: TensorFlow has no wheels for Python {found}; valid: 3.11, 3.12, 3.13; ")
    assert done.returncode != 0
    assert not (tmp_path / ".venv").exists()


def test_an_installed_wheel_imports_nothing_of_the_folder_in_which_it_runs(model: Path, tmp_path: Path) -> None:
    """The console script, and the cluster that it starts."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source, site, here = tmp_path / "source", tmp_path / "site", tmp_path / "here"
    ignored = shutil.ignore_patterns(".*", "results", "tests", "notebooks", "docs", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source)]
    subprocess.run([*pip, *install], check=True)
    for name in ("experiments", "cluster", "transports", "partitioning"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise ImportError('this is not splitbench')")
    script = site / "bin" / "splitbench"
    words = ["run", "--model", str(model), "--transport", "tcp", "--mode", "submodel", "--servers", "1"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [script, *words, "--runs", "1", "--out", "out"]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = environment.read(here / "out")
    assert (record["complete"], record["commit"]) == (True, None)  # not the commit of a checkout around the wheel
