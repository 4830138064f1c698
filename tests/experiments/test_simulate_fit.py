"""From results folders to systems: the fit recovers the parts of invented runs, and the parts of real runs add up."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.simulate.calibrate import alone, closed_loop, fitted
from experiments.simulate.engine import simulate
from experiments.simulate.fit import Fit, fit
from experiments.simulate.measured import Results, Run
from experiments.simulate.outcome import outcome_of
from experiments.simulate.topology import EACH, Layout, system_of
from experiments.spec.experiment import Cell
from experiments.spec.load import Load
from tests.experiments.simulating import Invented
from transports.errors import UsageError
from transports.process import command

FACTORS = np.array([1 + 0.1 * (run % 3) for run in range(20)])


def read(folder: Path, name: str = "") -> Run:
    results = Results.read(folder)
    return results.run(results.chosen(name))


def columns(found: Fit, step: int, parts: Sequence[str]) -> list[float]:
    """The seconds of `parts` in the first request."""
    return [float(found.rows[0, found.column(step, part)]) for part in parts]


@pytest.mark.parametrize("flow", ["nested", "forward"])
def test_a_traced_run_gives_every_part_of_every_process(flow: str, tmp_path: Path) -> None:
    known = Invented(flow=flow)
    found = fit(read(known.write(tmp_path / "run", traced=True)))
    work, transit = known.work, known.transit
    for step, caller in ((0, -1), (1, 0)):
        expected = [
            known.computed[step],
            work[caller],
            work[step] + transit[step],
            work[step],
            work[caller] + transit[caller],
        ]
        assert columns(found, step, ("compute", "send", "receive", "reply", "accept")) == pytest.approx(expected)
    assert found.rows[0, found.between] == pytest.approx(known.between)
    assert found.rows[:, 0] == pytest.approx(FACTORS * known.computed[0])  # each request keeps its own seconds
    receive = found.cores[found.column(0, "receive")]
    assert receive == pytest.approx((work[0] + known.busy * transit[0]) / (work[0] + transit[0]))
    assert found.cores[found.column(1, "compute")] == 1.0
    assert "20 traced requests" in found.basis


@pytest.mark.parametrize("flow", ["nested", "forward"])
@pytest.mark.parametrize("traced", [True, False])
def test_a_request_that_is_alone_takes_what_was_measured(flow: str, traced: bool, tmp_path: Path) -> None:
    known = Invented(flow=flow)
    run = read(known.write(tmp_path / "run", traced=traced))
    system = system_of(run, fit(run), Layout())
    found = simulate(system, 1, 300, 0)
    expected = known.seconds * np.array([1.0, 1.1, 1.2])
    times = sorted({round(float(each), 9) for each in found.seconds})
    assert times == pytest.approx(expected, rel=1e-6 if traced else 0.02)
    gaps = found.starts[1:] - found.starts[:-1] - found.seconds[:-1]
    assert gaps == pytest.approx(known.between, rel=1e-6) or flow == "forward"  # an answer may still be on its way


@pytest.mark.parametrize("computed", [(0.010, 0.030), (0.0001, 0.0002)], ids=str)
@pytest.mark.parametrize("flow", ["nested", "forward"])
def test_acknowledgements_beside_small_stages_are_not_counted_twice(
    flow: str, computed: tuple[float, float], tmp_path: Path
) -> None:
    run = read(Invented(computed=computed, flow=flow).write(tmp_path / "run", traced=True))
    measured = float(run.requests["seconds"].mean())
    assert alone(run, fitted(run)) == pytest.approx(measured, rel=1e-3)
    if flow == "forward" and computed[0] < 0.001:
        assert alone(run, fit(run)) > 1.02 * measured


def test_without_a_trace_servers_share_the_seconds_as_their_cpu_seconds(tmp_path: Path) -> None:
    known = Invented(work=dict.fromkeys((-1, 0, 1), 0.002), transit=dict.fromkeys((-1, 0, 1), 0.0))
    found = fit(read(known.write(tmp_path / "run", traced=False)))
    assert "without --trace" in found.basis
    for step in (0, 1):
        assert columns(found, step, ["compute"]) == pytest.approx([known.computed[step]], rel=0.02)
        assert columns(found, step, ["send", "receive", "reply", "accept"]) == pytest.approx([0.002] * 4)
    assert found.cores[found.column(0, "send")] == pytest.approx(1.0)


def test_cores_of_a_stage_are_its_cpu_seconds_over_its_seconds(tmp_path: Path) -> None:
    """With two threads of TensorFlow, nodes use twice as many CPU seconds as their stages take."""
    known = Invented(transit=dict.fromkeys((-1, 0, 1), 0.0))
    folder = known.write(tmp_path / "run", traced=True)
    run = read(folder)
    extra = run.used.assign(cpu_seconds=run.used["cpu_seconds"] + 1.1 * np.array(known.computed))
    doubled = replace(run, used=extra)
    assert fit(doubled).cores[0] == pytest.approx(2.0)


def test_emulated_links_are_simulated_and_no_part_of_the_fit(tmp_path: Path) -> None:
    plain = Invented()
    linked = Invented(transit={name: value + 0.010 for name, value in plain.transit.items()})
    link = "client<->server-0 rtt:20ms; server-0<->server-1 rtt:20ms"
    cell = replace(linked.cell, link=link)
    folder = LinkedRun(cell, linked).write(tmp_path / "run", traced=True)
    run = read(folder)
    found, expected = fit(run), fit(read(plain.write(tmp_path / "plain", traced=True)))
    assert found.rows[:, :-1] == pytest.approx(expected.rows[:, :-1], abs=2.1e-3)  # links do not vary by request
    system = system_of(run, found, Layout())
    assert outcome_of(simulate(system, 1, 300, 0)).p50 == pytest.approx(linked.seconds * 1.1, rel=0.02)
    assert set(system.links) >= {("client", "server-0"), ("server-1", "server-0")}


@pytest.mark.parametrize("flow", ["nested", "forward"])
def test_closed_loops_give_the_speed_of_cores_that_steps_share_and_its_spread(flow: str, tmp_path: Path) -> None:
    """Requests that are alone show neither the speed nor its spread."""
    known = Invented(flow=flow, slowed=2.0, uneven=1.4)
    beside = [replace(known.cell, concurrency=2, trace="off"), replace(known.cell, load="poisson:5/s")]
    run = read(known.write(tmp_path / "run", traced=True, beside=beside), known.cell.name)
    assert [*run.closed_loops] == [2]
    found = fitted(run)
    ((least, ideal), (clients, share)) = found.contention.speeds
    assert (least, ideal, clients) == (1.0, 1.0, 2.0)
    assert 0.3 < share < 0.8
    seconds = run.closed_loops[2]["seconds"]
    median, reach = closed_loop(run, found, 2)
    assert median == pytest.approx(float(seconds.median()), rel=0.01)
    assert reach == pytest.approx(float(seconds.quantile(0.9) / seconds.median()), rel=0.05)
    assert 0.1 < found.contention.spread < 0.9
    if flow == "nested":  # in `forward` a server computes beside its own messages
        assert alone(run, found) == pytest.approx(float(run.requests["seconds"].mean()), rel=1e-6)
    assert f"{100 * share:.0f} % (2 clients)" in found.basis


class LinkedRun(Invented):
    """`Invented` with another cell."""

    def __init__(self, cell: Cell, known: Invented) -> None:
        super().__init__(known.computed, known.work, known.transit)
        object.__setattr__(self, "_cell", cell)

    @property
    def cell(self) -> Cell:
        found: Cell = self._cell  # type: ignore[attr-defined]
        return found


@pytest.mark.parametrize(
    ("layout", "hosts"),
    [
        (Layout(), {"machine": 2}),
        (Layout(cores=8), {"machine": 8}),
        (Layout(hosts=EACH, replicas=2, cores=1), {"client": 1, "host-0": 1, "host-1": 1, "host-2": 1, "host-3": 1}),
        (Layout(hosts="3", replicas=2), {"client": 2, "host-0": 2, "host-1": 2, "host-2": 2}),
        (Layout(hosts="9"), {"client": 2, "host-0": 2, "host-1": 2}),
    ],
    ids=str,
)
def test_hosts_of_a_layout(layout: Layout, hosts: dict[str, int], tmp_path: Path) -> None:
    run = read(Invented().write(tmp_path / "run", traced=True))
    system = system_of(run, fit(run), layout)
    assert system.hosts == hosts
    assert [len(server.hosts) for server in system.servers] == [layout.replicas] * 2
    if layout.hosts == "3":
        assert [server.hosts for server in system.servers] == [("host-0", "host-2"), ("host-1", "host-0")]


def test_pinned_nodes_have_a_core_each(tmp_path: Path) -> None:
    run = read(Invented().write(tmp_path / "run", traced=True, pin="on"))
    system = system_of(run, fit(run), Layout())
    assert system.hosts == {"core-0": 1, "core-1": 1}
    assert system.shares == {"client": ("core-0", "core-1"), "node-0": ("core-0",), "node-1": ("core-1",)}
    assert {server.slots for server in system.servers} == {1}


def test_replicas_on_hosts_of_their_own_answer_more(tmp_path: Path) -> None:
    run = read(Invented().write(tmp_path / "run", traced=True))
    found = fit(run)
    one, two = (
        outcome_of(simulate(system_of(run, found, Layout(copies, EACH, 1)), Load("poisson", 40.0), 2000, 0))
        for copies in (1, 2)
    )
    assert one.overloaded
    assert not two.overloaded
    assert two.goodput == pytest.approx(40, rel=0.1)


@pytest.fixture(scope="module")
def real(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced run over real processes: two servers, two flows."""
    out = tmp_path_factory.mktemp("real") / "run"
    words = ["--model", str(model), "--mode", "submodel", "--servers", "2", "--transport", "tcp", "--trace"]
    words += ["--flow", "nested,forward", "--engine", "frozen", "--threads", "1", "--runs", "20", "--out", str(out)]
    subprocess.run(command("experiments.run", *words), check=True, capture_output=True, timeout=300)
    return out


@pytest.mark.parametrize("flow", ["nested", "forward"])
def test_a_real_run_adds_up(flow: str, real: Path) -> None:
    """One simulated request at a time takes as long as measured, whatever else the machine did during the run."""
    results = Results.read(real)
    cell = next(cell for cell in results.fitting if cell.flow == flow)
    run = results.run(cell)
    measured = float(run.requests["seconds"].mean())
    assert alone(run, fitted(run)) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("missing", ["nodes.csv", "plan-submodel.json"])
def test_a_folder_without_what_is_needed_says_what_to_do(missing: str, tmp_path: Path) -> None:
    folder = Invented().write(tmp_path / "run", traced=True)
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=r"measure again, for example: splitbench run --trace|as a run has written it"):
        fit(read(folder))
