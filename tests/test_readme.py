"""The README says what is so: its commands parse, its flags are all of them, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.sizes import cli as sizes
from experiments.spec import flags
from experiments.spec.settings import SETTINGS
from tools import readme_tables as readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("words", [words for words in COMMANDS if "experiments.run" in words], ids=" ".join)
def test_a_command_line_is_one_that_is_taken(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    experiment, _ = flags.parse(words[words.index("experiments.run") + 1 :])
    assert experiment.cells


@pytest.mark.parametrize("words", [words for words in COMMANDS if "experiments.sizes" in words], ids=" ".join)
def test_a_command_line_of_sizes_is_one_that_is_taken(words: list[str]) -> None:
    given = sizes.parser().parse_args(words[words.index("experiments.sizes") + 1 :])
    assert sizes.parse(given).ways


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "make"], ids=" ".join)
def test_a_make_target_exists(words: list[str]) -> None:
    done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/python -m" in done.stdout


def test_setup_runs_nothing() -> None:
    command = ["make", "setup", "--dry-run", "--always-make"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert "experiments" not in done.stdout


def blocks(name: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md"])
def test_every_block_is_what_sh_takes(name: str) -> None:
    for block in blocks(name):
        done = subprocess.run(["sh", "-n", "-c", block], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + block


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_commands_for_certificates_make_one_that_names_the_address(tmp_path: Path) -> None:
    (made,) = (block for block in blocks("SECURITY.md") if "openssl" in block)
    subprocess.run(["sh", "-e", "-c", made], cwd=tmp_path, capture_output=True, check=True)
    verify = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_ip", "192.0.2.7", "node.pem"]
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False).returncode == 0


def test_every_flag_is_described_with_its_default() -> None:
    rows = {row[0].strip(" `*"): row[1] for row in re.findall(r"^\| (`--[^|]*)\|([^|]*)\|", README, re.M)}
    assert set(rows) == {setting.flag for setting in SETTINGS.values()} | {
        "--option NAME.KEY=VALUE",
        "--spec FILE",
        "--out FOLDER",
    }
    for setting in SETTINGS.values():
        if setting.name not in ("input", "title"):
            assert rows[setting.flag].strip(" `") == str(setting.default)


def test_every_table_is_what_the_results_say() -> None:
    assert set(re.findall(r"<!-- table ([\w-]+) -->", README)) == set(readme.TABLES)
    assert readme.fill(README) == README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()
