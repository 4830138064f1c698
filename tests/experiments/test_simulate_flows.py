"""Which step waits for which in each flow: systems with constant steps, whose times can be added up by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.links.link import Link
from experiments.simulate.engine import simulate
from experiments.simulate.system import Call, Server, System, Visit, Work
from experiments.spec.load import Load
from tests.experiments.simulating import CALL, FLOWS, FREE, Constant, chain, constant, trace

MESSAGE = Call(Work(1), Work(2), Work(3), Work(4))
"""The steps of a message: send, receive, reply, accept."""


def seconds_of(system: System, clients: Load | int, requests: int = 1) -> Sequence[float]:
    return [round(float(each), 9) for each in simulate(system, clients, requests, 0).seconds]


def two(flow: str, *, hosts: Sequence[str] = ("a", "b"), result: Call = CALL, cores: int = 2) -> System:
    """Two servers; stages of 10 s and 20 s; for each message, send takes 1 s, receive 2 s, reply 3 s and accept 4 s."""
    first, last = (1,) if flow != "hub" else (), (0, 1) if flow == "hub" else (0,)
    visits = (
        Visit(0, MESSAGE, Work(5), sends=first),
        Visit(1, MESSAGE, Work(6), result=result if flow == "forward" else None),
    )
    servers = tuple(Server((host,), cores) for host in hosts)
    draws = Constant((0.0, 1.0, 2.0, 3.0, 4.0, 10.0, 20.0))
    return System({"client": cores, **dict.fromkeys(hosts, cores)}, servers, flow, visits, last, draws)


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("nested", 2 * (1 + 2 + 3 + 4) + 10 + 20),
        ("hub", 2 * (1 + 2 + 3 + 4) + 10 + 20),
        ("forward", 2 * (1 + 2) + 10 + 20),  # servers answer while they compute
    ],
)
def test_one_request_takes_the_sum_of_what_it_waits_for(flow: str, expected: float) -> None:
    assert seconds_of(two(flow), 1) == [expected]


def test_a_result_is_a_message_to_the_client() -> None:
    assert seconds_of(two("forward", result=MESSAGE), 1) == [2 * (1 + 2) + 10 + 20 + 1 + 2]


@pytest.mark.parametrize(("flow", "ways"), [("nested", 4), ("hub", 4), ("forward", 3)])
def test_links_delay_messages_and_answers(flow: str, ways: int) -> None:
    """Half a second for each message and answer that a request waits for: in `forward`, two messages and a result."""
    system = chain(constant(0.3, 0.4), 2, flow)
    hosts = list(system.hosts)
    links = {(a, b): Link(a, b, False, 0.5) for a in hosts for b in hosts if a != b}
    assert seconds_of(replace(system, links=links), 1) == [ways * 0.5 + 0.7]


def test_nested_calls_keep_a_worker_and_further_ones_are_refused() -> None:
    system = two("nested")
    few = replace(system, servers=tuple(replace(server, workers=1) for server in system.servers))
    assert not simulate(system, 2, 4, 0).missed.any()
    found = simulate(few, 2, 2, 0)
    assert list(found.missed) == [False, True]
    assert found.seconds[1] < found.seconds[0]


@pytest.mark.parametrize("flow", FLOWS)
def test_requests_beyond_the_time_limit_are_missed_and_not_computed(flow: str) -> None:
    system = chain(constant(10.0), 1, flow)
    whole = simulate(system, 5, 5, 0)
    found = simulate(replace(system, timeout=25.0), 5, 5, 0)
    assert list(found.missed) == [False, False, True, True, True]
    assert whole.whole["cores of host-0-0"] == 50
    assert found.whole["cores of host-0-0"] == 30  # the third request began in time


def test_a_pipeline_overlaps_requests() -> None:
    """The last stage, of 4 s, sets the pace: requests leave every 4 s, whatever the flow."""
    for flow in FLOWS:
        found = trace(chain(constant(1.0, 4.0), 2, flow), 2, 20)
        ends = sorted(found.starts + found.seconds)
        gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(ends[2:])]
        assert set(gaps) == {4.0}, flow


def test_processes_of_a_host_share_its_cores() -> None:
    """Two requests on two servers, with a core for each server, and with one core for both."""
    apart, together = two("nested", cores=1), two("nested", hosts=("a", "a"), cores=1)
    shared = replace(together, hosts={"a": 1}, client="a")
    assert seconds_of(apart, 1) == seconds_of(shared, 1)
    assert max(seconds_of(apart, 2, 2)) < max(seconds_of(shared, 2, 2))
    assert simulate(shared, 2, 2, 0).whole["cores of a"] == pytest.approx(2 * seconds_of(shared, 1)[0])


def test_a_core_is_shared_in_equal_parts_while_it_is_wanted() -> None:
    """Two steps of 10 s begin together on one core: both end after 20 s. On two cores, after 10 s."""
    for cores, expected in ((1, 20.0), (2, 10.0)):
        assert seconds_of(chain(constant(10.0), 1, cores=cores, slots=2), 2, 2) == [expected, expected]


def test_slots_bound_the_stages_of_a_process() -> None:
    assert seconds_of(chain(constant(10.0), 1, cores=2, slots=1), 2, 2) == [10.0, 20.0]


def test_a_process_handles_one_message_at_a_time() -> None:
    """This holds on any number of cores, because of the interpreter's lock."""
    call = replace(CALL, receive=Work(1))
    assert seconds_of(chain(constant(3.0), 1, cores=8, call=call), 3, 3) == [6.0, 9.0, 12.0]


def test_idle_seconds_of_a_message_take_no_core() -> None:
    """A message of 4 s uses a core for half of its time; in the other half, two messages overlap."""
    call = replace(CALL, receive=Work(2, 0.5))
    system = chain(Constant((0.0, 0.0, 4.0)), 1, call=call)
    assert seconds_of(system, 2, 2) == [4.0, 6.0]
    assert simulate(system, 2, 2, 0).whole["cores of host-0-0"] == 4.0


def test_forward_has_one_sender_for_each_destination() -> None:
    """A slow answer of the second server delays only the next message to that server."""
    slow = replace(CALL, reply=Work(1, 0.0))
    visits = (Visit(0, CALL, Work(2), sends=(1,)), Visit(1, slow, result=CALL))
    servers = (Server(("a",), 4), Server(("b",), 4))
    system = System({"client": 4, "a": 4, "b": 4}, servers, "forward", visits, (0,), Constant((0.0, 10.0, 1.0)))
    assert seconds_of(system, 3, 3) == [1.0, 11.0, 21.0]


def test_a_stage_waits_for_all_of_its_messages() -> None:
    """A branch: server 2 needs tensors of servers 0 and 1, which compute at the same time."""
    visits = (
        Visit(0, CALL, Work(1), sends=(2,)),
        Visit(1, CALL, Work(2), sends=(3,)),
        Visit(2, CALL),
        Visit(2, CALL, Work(3), after=(2,), result=CALL),
    )
    servers = tuple(Server((name,), 1) for name in "abc")
    hosts = dict.fromkeys(["client", "a", "b", "c"], 1)
    for seconds in ((0.0, 5.0, 8.0, 1.0), (0.0, 8.0, 5.0, 1.0)):
        assert seconds_of(System(hosts, servers, "forward", visits, (0, 1), Constant(seconds)), 1) == [9.0]


def test_replicas_take_turns() -> None:
    found = simulate(chain(constant(10.0), 1, replicas=2), 4, 8, 0)
    assert found.whole["cores of host-0-0"] == found.whole["cores of host-0-1"] == 40.0


def test_a_pinned_client_uses_the_core_that_is_least_busy() -> None:
    system = two("nested", hosts=("a", "b"), cores=1)
    floating = replace(system, hosts={"a": 1, "b": 1}, shares={"client": ("a", "b")})
    assert seconds_of(floating, 1) == seconds_of(system, 1)
    found = simulate(floating, 2, 4, 0)
    total = found.whole["cores of a"] + found.whole["cores of b"]
    assert total == pytest.approx(4 * (2 * 10 + 30))


def test_work_between_requests_slows_clients_but_no_request() -> None:
    system = replace(chain(constant(0.0, 2.0), 2), between=Work(2))
    found = simulate(system, 1, 4, 0)
    assert list(found.seconds) == [2.0] * 4
    assert list(found.starts) == [0.0, 4.0, 8.0, 12.0]


def test_a_client_has_a_bounded_number_of_requests_in_flight() -> None:
    """Requests that wait for a thread start late: their seconds count from the intended start."""
    system = replace(chain(constant(10.0), 1, cores=4), threads=1)
    found = simulate(system, Load("constant", 1.0), 3, 0)
    assert list(found.starts) == [1.0, 2.0, 3.0]
    assert list(found.seconds) == [10.0, 19.0, 28.0]


def test_steps_without_seconds_take_no_time() -> None:
    assert seconds_of(chain(constant(0.0), 1, call=CALL), 1) == [0.0]
    assert FREE.cores == 1.0
