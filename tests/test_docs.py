"""README.md and docs/ are correct: commands parse, tables match the results, links and paths lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import transports
from experiments import cli
from experiments.advise.__main__ import AdviseOptions
from experiments.compare import __main__ as compare
from experiments.ladder import __main__ as ladder
from experiments.loadgen import options
from experiments.profile import __main__ as profile
from experiments.reports import report
from experiments.simulate import options as simulate
from experiments.sizes import __main__ as sizes
from experiments.sizes import measure as sizes_measure
from experiments.sizes import report as sizes_report
from experiments.sizes.study import study_of
from experiments.spec import flags
from experiments.spec.experiment import SETTINGS
from experiments.store import files, samples
from experiments.threads import report as threads_report
from experiments.threads.__main__ import ThreadsOptions
from experiments.trace import __main__ as trace
from partitioning.export import ExportOptions
from partitioning.options import Parser
from partitioning.planned import PlanOptions
from tools import docs_tables, flags_table
from transports import Limits

ROOT = Path(__file__).parent.parent
PAGES = [*docs_tables.pages(), *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
PAGES += [ROOT / "results" / "README.md"]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
CURRENT = {name: text for name, text in TEXTS.items() if name != "CHANGELOG.md"}
"""The pages that may name only what exists today."""
BLOCKS = [(name, block) for name, text in TEXTS.items() for block in re.findall(r"```sh\n(.*?)```", text, re.S)]
TOML = re.findall(r"```toml\n(.*?)```", TEXTS["docs/machines.md"], re.S)
COMMANDS = [shlex.split(line, comments=True) for _, block in BLOCKS for line in block.splitlines() if line.strip()]
MODULES = {name: module.removesuffix(".__main__") for name, (module, _) in cli.COMMANDS.items()}
"""Command of `splitbench` -> the module that is the same program."""


def program(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command line runs, and its arguments; "" for a program that is no module of the project."""
    if words[0] == "splitbench":
        return MODULES[words[1]], words[2:]
    if words[:2] == ["python", "-m"]:
        return words[2], words[3:]
    return "", words


def certificates(folder: Path) -> Path:
    """Run the documented commands for certificates in `folder`, and return `folder`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (made,) = (block for _, block in BLOCKS if "openssl" in block)
    subprocess.run(["sh", "-e", "-c", made], cwd=folder, capture_output=True, check=True)
    return folder


def reader(noun: type[Any]) -> Callable[[list[str]], object]:
    return lambda words: Parser("", "", "").read(noun, words)


READERS: Mapping[str, Callable[[list[str]], object]] = {
    "run": lambda words: flags.parse_runs(words).experiments,
    "report": lambda words: len(words) == 1,
    "profile": lambda words: profile.parse(words, "")[1],
    "advise": reader(AdviseOptions),
    "compare": lambda words: compare.read(words).b,
    "show": reader(PlanOptions),
    "export": reader(ExportOptions),
    "ladder": lambda words: ladder.complete(flags.parse_runs(words).experiments[0][0]),
    "loadgen": lambda words: options.read(words, "", ("", "")),
    "simulate": lambda words: simulate.loads_of(simulate.read(words)[1]),
    "sizes": lambda words: study_of(sizes.read(words)).ways,
    "threads": reader(ThreadsOptions),
    "trace": lambda words: trace.read(words)[0],
}
"""Command -> function that reads its arguments, and raises an error for arguments that the command does not take."""
LINES = [(name, words) for name, module in MODULES.items() for words in COMMANDS if program(words)[0] == module]


def test_the_pages_show_every_command_and_no_other() -> None:
    assert {name for name, _ in LINES} == set(cli.COMMANDS) == set(READERS)
    assert set(re.findall(r"^\| `splitbench (\w+)` \|", TEXTS["docs/running.md"], re.M)) == set(cli.COMMANDS)


@pytest.mark.parametrize(("name", "words"), LINES, ids=[" ".join(words) for _, words in LINES])
def test_a_command_line_parses(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(certificates(tmp_path) if "--tls-cert" in words else ROOT)
    if "hosts.toml" in words:  # docs/machines.md shows this file
        monkeypatch.chdir(tmp_path)
        (shown,) = (block for block in TOML if block.startswith("[[host]]"))
        (tmp_path / "hosts.toml").write_text(shown)
    assert READERS[name](program(words)[1])


NAMED = {module for text in CURRENT.values() for module in re.findall(r"python -m ([a-z][\w.]+)", text)}


@pytest.mark.parametrize("module", sorted(NAMED | {program(words)[0] for words in COMMANDS} - {""}))
def test_a_module_that_a_page_runs_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


SPANS = {span for text in CURRENT.values() for span in re.findall(r"`([^`\n]+)`", text)}


@pytest.mark.parametrize("flag", sorted({flag for span in SPANS for flag in re.findall(r"(?<!\S)--[a-z][\w-]+", span)}))
def test_a_flag_that_a_page_names_exists(flag: str) -> None:
    sources = (path for room in ("experiments", "partitioning", "tools") for path in (ROOT / room).rglob("*.py"))
    known = {item.flag for options in flags_table.COMMANDS.values() for item in options.values()}
    if flag.endswith("-"):  # `--tls-*` names several flags
        assert any(setting.startswith(flag) for setting in known)
        return
    assert flag in known or any(f'"{flag}"' in path.read_text(encoding="utf-8") for path in sources)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "make"], ids=" ".join)
def test_a_make_target_exists(words: list[str]) -> None:
    command = [*words, "--dry-run", "--always-make"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/" in done.stdout


def test_setup_runs_nothing() -> None:
    command = ["make", "setup", "--dry-run", "--always-make"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert "experiments" not in done.stdout


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_every_block_is_valid_shell(name: str, block: str) -> None:
    done = subprocess.run(["sh", "-n", "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stderr}{block}"


def test_the_commands_for_certificates_make_one_that_names_the_address(tmp_path: Path) -> None:
    certificates(tmp_path)
    verify = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_ip", "192.0.2.7", "node.pem"]
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False).returncode == 0


def test_the_page_of_flags_is_what_the_declarations_say() -> None:
    assert TEXTS["docs/flags.md"] == flags_table.page(), "run: python -m tools.flags_table"
    assert flags_table.main(["--check"]) == 0
    named = set(re.findall(r"^\| `(--[\w-]+)", flags_table.page(), re.M))
    assert named == {item.flag for options in flags_table.COMMANDS.values() for item in options.values()}
    run = flags_table.page().split("## splitbench show")[0]
    for setting in SETTINGS.values():
        default = setting.shown.replace("<", "&lt;") or (
            f"`{setting.default}`" if setting.default not in ("", ()) else ""
        )
        assert re.search(rf"^\| `{setting.flag}[ `].*? \| {re.escape(default)} \|", run, re.M), setting.flag


def test_a_page_of_flags_that_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flags_table, "PAGE", tmp_path / "flags.md")
    (tmp_path / "flags.md").write_text("another page")
    assert flags_table.main(["--check"]) == 1
    assert "docs/flags.md differs" in capsys.readouterr().err
    assert flags_table.main([]) == flags_table.main(["--check"]) == 0


@pytest.mark.parametrize("page", docs_tables.pages(), ids=lambda page: page.name)
def test_every_table_shows_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs_tables.fill(text) == text


def test_every_table_that_can_be_written_is_on_a_page() -> None:
    assert {name for text in TEXTS.values() for name in re.findall(r"<!-- table ([\w-]+) -->", text)} == set(
        docs_tables.TABLES
    )


def test_check_names_the_page_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table threads -->\nanother table\n<!-- end of table -->\n")
    monkeypatch.setattr(docs_tables, "ROOT", tmp_path)
    monkeypatch.setattr(docs_tables, "pages", lambda: [page])
    assert docs_tables.main(["--check"]) == 1
    assert "page.md" in capsys.readouterr().err
    assert "another table" in page.read_text()
    assert docs_tables.main([]) == 0
    assert docs_tables.main(["--check"]) == 0
    assert "another table" not in page.read_text()


def test_every_option_of_a_transport_is_described() -> None:
    common = {item.name for item in fields(Limits)}
    own = {
        f"{name}.{item.name}"
        for name in transports.NAMES
        for item in fields(transports.kind(name).Options)
        if item.name not in common
    }
    table = TEXTS["docs/transports.md"].split("## Options")[1]
    assert set(re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M)))) == common | own


COLUMNS = (
    *samples.COLUMNS,
    *report.summary_of(pd.DataFrame(columns=list(samples.COLUMNS)), 0).columns,
    *(*sizes_measure.COLUMNS, *sizes_report.SUMMARY, *threads_report.COLUMNS),
)


@pytest.mark.parametrize("name", dict.fromkeys((*COLUMNS, *files.RESULTS)))
def test_every_column_and_file_of_results_is_described(name: str) -> None:
    assert f"`{name}`" in TEXTS["results/README.md"]


@pytest.mark.parametrize("name", ["repeats", "longest", "seed", "left_out", "predicted"])
def test_every_entry_of_a_record_of_sizes_and_threads_is_described(name: str) -> None:
    assert f"`{name}`" in TEXTS["results/README.md"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = sorted({(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)})


@pytest.mark.parametrize(("name", "link"), LINKS, ids=[f"{name}:{link}" for name, link in LINKS])
def test_a_link_leads_to_a_file_and_a_heading(name: str, link: str) -> None:
    if link.startswith("https://"):
        return
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8"))


ROOMS = "cluster|docs|experiments|notebooks|partitioning|results|tests|tfserving|tools|transports"
PATHS = sorted({
    (name, path)
    for name, text in CURRENT.items()
    for path in re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", text)
    if "results/mine" not in path
})  # fmt: skip


@pytest.mark.parametrize(("name", "path"), PATHS, ids=[f"{name}:{path}" for name, path in PATHS])
def test_a_path_that_a_page_names_exists(name: str, path: str) -> None:
    assert (ROOT / path).exists()


def test_the_slowest_tests_exist() -> None:
    slowest = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)", TEXTS["CONTRIBUTING.md"])
    assert len(slowest) == 10
    for path, name in slowest:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_every_page_is_in_the_contents() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in TEXTS["docs/index.md"]
        assert page.name == "index.md" or f"](docs/{page.name})" in TEXTS["README.md"]


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
