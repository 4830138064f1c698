"""The rules between rooms: which room may import which, and which libraries are imported only when they are chosen."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import transports
from partitioning.graph import ITEMSIZES
from transports.base import DTYPES
from transports.errors import UsageError

ROOT = Path(__file__).parent.parent
ROOMS = {
    "partitioning": set(),
    "transports": set(),
    "tfserving": {"transports"},
    "cluster": {"partitioning", "transports", "tfserving"},
    "experiments": {"partitioning", "transports", "tfserving", "cluster"},
    "tools": {"partitioning", "transports", "tfserving", "cluster", "experiments"},
}
"""Room -> the rooms that it may import."""
HEAVY = {"tensorflow", "keras"}
PURE = [
    "partitioning/plan.py",
    "partitioning/engine_table.py",
    "partitioning/graph.py",
    "partitioning/strategies.py",
    "partitioning/placement.py",
    "partitioning/traffic.py",
    "partitioning/part_costs.py",
    "partitioning/cost_model.py",
    "partitioning/advice.py",
    "partitioning/changes.py",
    "partitioning/candidates.py",
]
LIBRARIES = {library.partition(".")[0] for name in transports.NAMES for library in transports.kind(name).libraries}
"""The top-level packages of all transports' libraries."""


def modules_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = {module.partition(".")[0] for module in modules_of(path)} & set(ROOMS)
        assert found <= ROOMS[room] | {room}, f"{path.name} imports {found - ROOMS[room] - {room}}"


FLOORS = {
    "spec": {"measure", "reports", "store", "compare", "ladder", "profile", "advise", "simulate", "sizes", "threads"},
    "store": {"measure", "reports", "compare", "ladder", "profile", "advise", "simulate", "sizes", "threads"},
    "measure": {"reports", "compare", "ladder", "profile", "advise", "simulate", "sizes", "threads"},
    "reports": {"measure", "compare", "ladder", "profile", "advise", "simulate", "sizes", "threads"},
    "compare": {"measure", "ladder", "profile", "advise", "simulate", "sizes", "threads"},
}
"""Floor of `experiments` -> the floors that it must not import."""


@pytest.mark.parametrize("floor", FLOORS)
def test_data_flows_one_way_through_the_experiments(floor: str) -> None:
    for path in (ROOT / "experiments" / floor).rglob("*.py"):
        found = {module.split(".")[1] for module in modules_of(path) if module.startswith("experiments.")}
        assert not found & FLOORS[floor], f"{path.name} imports {found & FLOORS[floor]}"


def test_no_module_imports_itself_through_others() -> None:
    imports = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): set(modules_of(path))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    circle = next((chain for start in imports if (chain := _circle(start, imports))), [])
    assert not circle, " -> ".join(circle)


def _circle(start: str, imports: dict[str, set[str]]) -> list[str]:
    """A chain of imports that leads from `start` back to it; empty where there is none."""
    chains, seen = [[start]], set()
    while chains:
        chain = chains.pop()
        for module in imports.get(chain[-1], set()) & imports.keys():
            if module == start:
                return [*chain, start]
            if module not in seen:
                seen.add(module)
                chains.append([*chain, module])
    return []


@pytest.mark.parametrize("name", [*PURE, *(str(path.relative_to(ROOT)) for path in (ROOT / "transports").glob("*.py"))])
def test_plans_and_transports_import_no_tensorflow(name: str) -> None:
    assert not {module.partition(".")[0] for module in modules_of(ROOT / name)} & HEAVY


def loaded_by(code: str) -> set[str]:
    """The top-level modules that `code` loads in a new interpreter."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_describing_transports_imports_none_of_their_libraries() -> None:
    code = "import transports; print(*(transports.kind(name).title for name in transports.NAMES))"
    assert not loaded_by(code) & (LIBRARIES | HEAVY)


USED = """
import transports
transport = transports.make({name!r})
with transport.serve(lambda message: message, "127.0.0.1", 0, 1) as server:
    transport.connect(server.address).close()
"""


@pytest.mark.parametrize("name", transports.NAMES)
def test_using_a_transport_imports_its_own_libraries_and_no_others(name: str) -> None:
    own = {library.partition(".")[0] for library in transports.load(name).libraries}
    assert loaded_by(USED.format(name=name)) & (LIBRARIES | HEAVY) == own


@pytest.mark.parametrize("name", [name for name in transports.NAMES if transports.kind(name).libraries])
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=f"transport '{name}' needs the package .*: pip install "):
        transports.load(name)


def test_the_registry_loads_no_tensorflow() -> None:
    assert not loaded_by("import cluster.process, cluster.registry, cluster.client") & HEAVY


def test_flags_are_read_without_numpy() -> None:
    """Each `--help` takes a tenth of a second."""
    modules = (
        "spec.flags",
        "compare.__main__",
        "sizes.__main__",
        "profile.__main__",
        "advise.__main__",
        "threads.__main__",
        "report",
        "run",
    )
    loaded = loaded_by(
        f"import partitioning.show, partitioning.export, {', '.join(f'experiments.{m}' for m in modules)}"
    )
    assert not loaded & (HEAVY | {"numpy", "pandas", "rich"})


def test_libraries_of_model_servers_are_imported_only_when_one_is_chosen() -> None:
    loaded = loaded_by(
        "import cluster.node_server, cluster.in_process, cluster.model_servers.servers, "
        "experiments.spec.flags, experiments.report"
    )
    assert not loaded & (HEAVY | {"tensorflow_serving", "orjson"})


def test_a_plan_admits_no_dtype_that_the_wire_does_not_carry() -> None:
    assert set(ITEMSIZES) <= set(DTYPES)
