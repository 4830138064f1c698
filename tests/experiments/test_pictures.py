"""The pictures of distributions and of bytes over the model's depth, and folders that lack the data for a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from experiments.reports import depth, distributions, topology
from experiments.reports.report import build
from experiments.spec.experiment import Cell, Experiment
from experiments.store import files
from partitioning.plan import Edge, Plan, Stage
from tests.experiments.common import REFERENCE

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

LAYER = [Cell(name) for name in ("none", "rpyc", "grpc")]


def skipping() -> Plan:
    """Three stages with four operations in all. The output x of the first stage goes to both other stages."""
    edges = (
        Edge("in", (None, 3), "float32", None, ("a",)),
        Edge("x", (None, 10), "float32", "a", ("b", "c")),
        Edge("y", (None, 100), "int8", "b", ("c",)),
        Edge("out", (None, 1), "float32", "c", ()),
    )
    stages = (
        Stage("a", ("in",), ("x",), ("first", "second")),
        Stage("b", ("x",), ("y",), ("third",)),
        Stage("c", ("x", "y"), ("out",), ("fourth",)),
    )
    return Plan("submodel", stages, {edge.name: edge for edge in edges}, ("in",), ("out",))


def test_what_crosses_each_cut() -> None:
    found = depth.crossings(skipping())
    assert found == [
        depth.Crossing(0, "first", 12),
        depth.Crossing(2, "third", 2 * 40),  # both stages behind the cut take x
        depth.Crossing(3, "fourth", 40 + 100),
    ]


def test_the_depth_of_a_folder_names_the_operation_behind_each_cut(make_results: Maker) -> None:
    folder = make_results(LAYER)
    (folder / "plan-submodel.json").write_text(skipping().to_json())
    (folder / "plan-again.json").write_text(skipping().to_json())
    page = (build(folder).parent / "report.html").read_text()
    drawn = (folder / files.DEPTH).read_text()
    for text in (">third<", ">fourth<", "s input<"):
        assert drawn.count(text) == 1
    assert drawn.count(">submodel, 3 stages, 0.00018 MB between them<") == 1  # equal plans are drawn once
    assert "Bytes over the model's depth" in page


def test_a_curve_of_many_cuts_has_no_names(tmp_path: Path) -> None:
    (tmp_path / "plan-layer.json").write_bytes((REFERENCE / "tuned-layer" / "plan-layer.json").read_bytes())
    (_, _, shown) = depth.section(tmp_path)
    assert shown.endswith("(depth.svg)")
    drawn = (tmp_path / files.DEPTH).read_text()
    assert "layer, 209 stages" in drawn
    assert "expanded_conv" not in drawn


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"mode": "layer"}'])
def test_a_plan_that_is_none_is_named_and_the_rest_is_reported(make_results: Maker, text: str) -> None:
    folder = make_results(LAYER)
    (folder / "plan-layer.json").write_text(text)
    page = (build(folder).parent / "report.html").read_text()
    assert "plan-layer.json is not drawn: this is no plan" in page
    assert not (folder / files.DEPTH).exists()
    assert (folder / files.DISTRIBUTIONS).exists()


def test_a_folder_without_a_plan_that_cuts_has_no_depth(tmp_path: Path) -> None:
    assert depth.section(tmp_path) == []
    (tmp_path / "plan-whole.json").write_bytes((REFERENCE / "wire" / "plan-whole.json").read_bytes())
    assert depth.section(tmp_path) == []


def test_every_cell_has_a_row_named_by_what_differs(make_results: Maker) -> None:
    build(folder := make_results(LAYER))
    drawn = (folder / files.DISTRIBUTIONS).read_text()
    for label in ("Local", "None", "RPyC", "gRPC"):
        assert drawn.count(f">{label}<") == 1
    assert "How long single requests take" in drawn
    assert "layer" not in drawn


def test_thirty_cells_are_drawn_and_too_many_are_not(make_results: Maker) -> None:
    cells = [Cell("grpc", batch=batch) for batch in range(1, 16)]  # and as many local models
    build(folder := make_results(cells, runs=3))
    drawn = (folder / files.DISTRIBUTIONS).read_text()
    assert all(f">gRPC, batch {batch}<" in drawn for batch in range(1, 16))
    cells = [Cell("grpc", batch=batch) for batch in range(1, 22)]
    build(folder := make_results(cells, name="many", runs=3))
    assert not (folder / files.DISTRIBUTIONS).exists()


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 1000.0]])
def test_a_density_is_a_share_of_its_largest(values: list[float]) -> None:
    edges = np.geomspace(0.9, 1100, 65)
    found = distributions.density(np.array(values), edges)
    assert found.shape == (64,)
    assert found.max() == 1
    assert found.min() >= 0
    assert found[np.searchsorted(edges, 1.0) - 1] > 0.5


def test_equal_samples_are_drawn(tmp_path: Path) -> None:
    assert "<svg" in distributions.draw({"one": np.array([2.0, 2.0])}, [False])


HOSTS: dict[str, Any] = {
    "edge": {"servers": [0], "client": True, "threads": 0, "cpu": 0.25, "memory": 0},
    "cloud": {"servers": [1, 2], "client": False, "threads": 2, "cpu": 0.0, "memory": 0},
}
WAYS = [
    {"from": "client", "to": "edge", "rtt": 0.0012, "bandwidth": 94e6},
    {"from": "edge", "to": "cloud", "rtt": 0.02, "bandwidth": 5e6},
    {"from": "cloud", "to": "edge", "rtt": 0.02, "bandwidth": 8e6},
]


def linked(*links: str) -> Experiment:
    return Experiment(tuple(Cell(on="edge+cloud", link=link) for link in links))


def test_boxes_have_servers_and_limits() -> None:
    assert topology.boxes_of({"hosts": HOSTS}) == {
        "edge": "edge, with the client\nserver 0\ncpu 0.25",
        "cloud": "cloud\nservers 1, 2\nthreads 2",
    }
    assert [*topology.boxes_of({"hosts": HOSTS, "ways": {"before": WAYS}})] == ["client", "edge", "cloud"]
    assert topology.boxes_of({}) == {}


def test_a_link_lists_a_few_settings_and_counts_more() -> None:
    pair = frozenset(("edge", "cloud"))
    few = linked("edge<->cloud rtt:1ms", "edge<->cloud rtt:20ms,bandwidth:5Mbit", "edge->cloud delay:5ms")
    assert topology.links_of({}, few) == {pair: "rtt:1ms\nrtt:20ms, bandwidth:5Mbit\nedge->cloud delay:5ms"}
    many = linked(*(f"edge<->cloud rtt:{number}ms" for number in range(1, 10)))
    assert topology.links_of({}, many) == {pair: "rtt:1ms\n... 7 more ...\nrtt:9ms"}


def test_measured_ways_stand_where_no_link_was_emulated() -> None:
    machines = {"hosts": HOSTS, "ways": {"before": WAYS}}
    assert topology.links_of(machines, linked("")) == {
        frozenset(("client", "edge")): "1.2 ms, 94 Mbit/s",
        frozenset(("edge", "cloud")): "20 ms, 5.0 Mbit/s\n20 ms, 8.0 Mbit/s",
    }


def test_hosts_are_drawn_and_one_host_alone_is_not(tmp_path: Path) -> None:
    record = {"machines": {"hosts": HOSTS, "ways": {"before": WAYS}}}
    *_, shown = topology.section(tmp_path, record, linked(""))
    assert shown.endswith("(hosts.svg)")
    drawn = (tmp_path / files.TOPOLOGY).read_text()
    for text in ("client", "edge, with the client", "cloud", "1.2 ms, 94 Mbit/s"):
        assert f">{text}<" in drawn
    assert topology.section(tmp_path, {"machines": {"hosts": {"edge": HOSTS["edge"]}}}, linked("")) == []
    assert topology.section(tmp_path, {}, linked("")) == []
