"""Adding a transport is one file and one line: the suites test it without another edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LINE = '    "none": "transports.direct:Direct",\n'
SUITES = ("tests/transports", "tests/faults/test_transports.py", "tests/faults/test_overload.py")
"""The suites take their cases from `transports.NAMES`. A test that runs all transports at once runs the new one."""
CHOSEN = "toy or (call_fails_in_time and (swallowed or reset)) or drains or killed"


@pytest.mark.slow
def test_a_new_transport_is_one_file_and_one_line(tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".*", "results", "docs", "notebooks", "__pycache__"))
    (copied / "tests/transports/toy.py").rename(copied / "transports/toy.py")
    names = copied / "transports/__init__.py"
    text = names.read_text()
    assert text.count(LINE) == 1
    names.write_text(text.replace(LINE, f'{LINE}    "toy": "transports.toy:Toy",\n'))
    for chosen, suites in (
        (CHOSEN, SUITES),
        ("plans_and_transports or toy or circle", ("tests/test_architecture.py",)),
    ):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *suites]
        done = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-5000:]
        assert " passed" in done.stdout
