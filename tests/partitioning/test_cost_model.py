"""The arithmetic of `partitioning.cost_model`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitioning.cost_model import CostModel, Placed
from partitioning.part_costs import CostError, Device, Estimate, MessageCost, Path, Runs, total
from partitioning.plan import build_plan, cut_table
from partitioning.traffic import CLIENT, Traffic
from tests.partitioning.costs import model_of, runs_of
from tests.partitioning.graphs import chain, graphs


def simple(**changes: object) -> CostModel:
    """Two operations of 10 and 20 ms; 400 bytes between them, 4 into the first, 8 out of the second."""
    values = {
        "traffic": Traffic(chain(100, 2), 1),
        "runs": {"edge": runs_of([0.01, 0.02]), "cloud": runs_of([0.001, 0.002])},
        "devices": {"edge": Device(), "cloud": Device()},
        "transports": {"grpc": MessageCost(Estimate(1e-3, 1e-4), Estimate(1e-6))},
        "paths": {("edge", "cloud"): Path(0.05, 8e3), ("cloud", "edge"): Path(0.03, 8e4)},
        "client": "edge",
        "weights": (100, 50),
    }
    return CostModel(**{**values, **changes})  # type: ignore[arg-type]


def test_a_request_is_the_sum_of_compute_messages_and_links() -> None:
    found = simple().predict(Placed(("edge", "cloud"), (1,), "grpc"))
    assert found.compute == pytest.approx(0.01 + 0.002)
    assert found.messages == pytest.approx(2e-3 + (4 + 8) * 1e-6 + (400 + 8) * 1e-6)
    assert found.links == pytest.approx(0.05 + 400 / 1e3 + 0.03 + 8 / 1e4)
    assert found.seconds.value == pytest.approx(found.compute + found.messages + found.links)
    assert found.busiest == "the link edge->cloud"
    assert found.interval == pytest.approx(0.4)
    assert found.sent == 404


def test_without_a_cut_there_is_one_message_and_on_the_clients_host_no_link() -> None:
    here, there = (simple().predict(Placed((host,), (), "grpc")) for host in ("edge", "cloud"))
    assert here.links == 0
    assert here.seconds.value == pytest.approx(0.03 + 1e-3 + 12e-6)
    assert there.links == pytest.approx(0.05 + 4 / 1e3 + 0.03 + 8 / 1e4)


def test_what_a_transport_compresses_crosses_the_link_smaller() -> None:
    small = {"grpc": MessageCost(Estimate(0.0), Estimate(0.0), density={1: 0.25})}
    found = simple(transports=small).predict(Placed(("edge", "cloud"), (1,), "grpc"))
    assert found.trips.nbytes == 100 + 8


def test_errors_of_independent_parts_add_as_squares() -> None:
    assert total([Estimate(1, 3), Estimate(2, 4)]) == Estimate(3, 5)
    found = simple().predict(Placed(("edge",), (), "grpc")).seconds
    assert found.error == pytest.approx((2 * 5e-5**2) ** 0.5)


def test_over_another_link_only_the_link_changes() -> None:
    model, path = simple(), Path(0.2, 1e6)
    placed = Placed(("edge", "cloud"), (1,), "grpc")
    there = dict.fromkeys(model.paths, path)
    again = simple(paths=there).predict(placed)
    assert model.predict(placed).over(path) == pytest.approx((again.seconds.value, again.interval))


@pytest.mark.parametrize(
    ("share", "work"), [(0.25, 0.003), (0.25, 0.0123), (0.25, 0.031), (0.5, 0.0123), (0.1, 0.0071)]
)
def test_seconds_under_a_share_are_those_of_a_simulated_quota(share: float, work: float) -> None:
    device, phases = Device(share=share, period=0.02), 2000
    deviations = (-0.1, -0.05, 0.0, 0.05, 0.1)
    walked = [
        _walk(work * (1 + deviation), share * 0.02, 0.02, (place + 0.5) / phases * 0.02)
        for deviation in deviations
        for place in range(phases)
    ]
    assert device.elapsed(work) == pytest.approx(sum(walked) / len(walked), rel=1e-3)


def _walk(work: float, quota: float, period: float, left: float) -> float:
    """Seconds until `work` is done if it begins `left` seconds before the next period."""
    seconds = 0.0
    while True:
        done = min(work, quota, left)
        work -= done
        if work <= 1e-15:
            return seconds + done
        seconds, left = seconds + left, period


def test_a_closed_loop_cannot_use_more_than_the_share() -> None:
    model = simple(devices={"edge": Device(share=0.25, period=0.02), "cloud": Device()})
    found = model.predict(Placed(("edge",), (), "grpc"))
    assert found.seconds.value == pytest.approx((0.03 + 0.5e-3 + 6e-6) / 0.25)


def test_between_requests_a_host_recovers_its_share() -> None:
    devices = {"edge": Device(share=0.25, period=0.02), "cloud": Device()}
    busy, rested = (
        simple(devices=devices, think=think).predict(Placed(("edge",), (), "grpc")).seconds.value
        for think in (0.01, 1.0)
    )
    load = 0.03 + 0.5e-3 + 6e-6
    assert busy == pytest.approx(load / 0.25 - 0.01)
    assert rested == pytest.approx(0.5e-3 + 6e-6 + devices["edge"].elapsed(load))


def test_runs_that_were_not_measured_are_derived_from_those_at_the_ends() -> None:
    ends = {(0, 4): 10.0, (0, 1): 2.0, (1, 4): 9.0, (0, 3): 7.0, (3, 4): 4.0}
    runs = Runs({run: Estimate(value) for run, value in ends.items()}, 4)
    assert runs.positions == (1, 3)
    assert runs.joint.value == pytest.approx(1.0)
    assert runs.seconds(1, 3).value == pytest.approx(7 - 2 + 1)
    with pytest.raises(CostError, match="no cut before operation 2"):
        runs.seconds(2, 4)


@given(graphs(), st.data())
def test_messages_are_those_of_the_plan(graph: object, data: st.DataObject) -> None:
    count = len(graph.operations)  # type: ignore[attr-defined]
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=3))) if count > 1 else []
    model = model_of(graph, 0)  # type: ignore[arg-type]
    numbers = [sum(cut <= place for cut in cuts) for place in range(count)]
    plan = build_plan(graph, numbers, "submodel")  # type: ignore[arg-type]
    order = {stage.name: place for place, stage in enumerate(plan.stages)}
    expected: dict[tuple[int, int], int] = {}
    for cut in cut_table(plan):
        for edge in cut.edges:
            for stage in edge.consumers:
                pair = (CLIENT if cut.stage is None else order[cut.stage], order[stage])
                expected[pair] = expected.get(pair, 0) + edge.nbytes * model.traffic.batch
    assert model.traffic.messages(cuts) == expected


@pytest.mark.parametrize(
    ("placed", "reason"),
    [
        (Placed(("moon",), (), "grpc"), "no host 'moon'; it has edge, cloud"),
        (Placed(("edge",), (), "rest"), "no transport 'rest'; it has grpc"),
        (Placed(("edge", "edge"), (1,), "grpc"), "each host once"),
        (Placed(("edge", "cloud"), (), "grpc"), "one fewer"),
    ],
)
def test_what_the_profile_does_not_know_is_named(placed: Placed, reason: str) -> None:
    with pytest.raises(CostError, match=reason):
        simple().predict(placed)
