"""The simulation against queueing theory.

Each mean has to be within four standard errors of the exact mean. The standard error is estimated from the run itself,
and has to be so small that a wrong model fails.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from experiments.simulate.draws import Draws
from experiments.simulate.outcome import Outcome
from experiments.simulate.resources import Contention
from experiments.spec.load import Load
from tests.experiments.simulating import (
    FLOWS,
    Constant,
    chain,
    constant,
    exponential,
    linked,
    mean_value_analysis,
    run,
    trace,
)


def agree(found: Outcome, mean: float, precision: float = 0.05) -> None:
    assert found.mean_error < precision * mean, "the run is too short to tell"
    assert abs(found.mean - mean) < 4 * found.mean_error


def erlang_c(servers: int, offered: float) -> float:
    """The probability that an arrival waits. Source: A. K. Erlang, 1917."""
    terms = [offered**count / math.factorial(count) for count in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_one_core_is_a_queue_with_exponential_service(rate: float) -> None:
    """M/M/1: the seconds in the system are exponential with mean 1 / (1 - rate)."""
    found = run(chain(exponential(1.0), 1), Load("poisson", rate), 60_000)
    mean = 1 / (1 - rate)
    agree(found, mean)
    assert found.p50 == pytest.approx(mean * math.log(2), rel=0.08)
    assert found.p99 == pytest.approx(mean * math.log(100), rel=0.1)
    assert found.used["cores of host-0-0"] == pytest.approx(rate, rel=0.03)


def test_one_core_is_a_queue_with_constant_service() -> None:
    """M/D/1: the formula of Pollaczek and Khinchine."""
    agree(run(chain(constant(1.0), 1), Load("poisson", 0.7)), 1 + 0.7 / (2 * 0.3))


@pytest.mark.parametrize(("cores", "rate"), [(2, 1.4), (4, 3.2)])
def test_several_cores_serve_one_queue(cores: int, rate: float) -> None:
    """M/M/c: Erlang's formula C."""
    wait = erlang_c(cores, rate) / (cores - rate)
    agree(run(chain(exponential(1.0), 1, cores=cores), Load("poisson", rate), 40_000), 1 + wait)


def test_replicas_in_turn_are_queues_with_erlang_arrivals() -> None:
    """Each gets every second arrival of a Poisson stream: E2/M/1, whose root solves x = (2 L / (2 L + 1 - x))^2."""
    rate, root = 0.7, 0.5
    for _ in range(200):
        root = (2 * rate / (2 * rate + 1 - root)) ** 2
    agree(run(chain(exponential(1.0), 1, replicas=2), Load("poisson", 2 * rate)), 1 / (1 - root))


@pytest.mark.parametrize("draws", [constant(1.0), exponential(1.0)], ids=["constant", "exponential"])
def test_processes_share_a_core_in_equal_parts(draws: Draws) -> None:
    """M/G/1 with processor sharing: the mean is 1 / (1 - rate) for every distribution of the service."""
    agree(run(chain(draws, 1, slots=10_000), Load("poisson", 0.7), 60_000), 1 / 0.3)


def test_two_cores_that_slow_each_other() -> None:
    """A birth-death process with the service rates 1, 1.5, 1.2, 1.2, ..."""
    rate, service = 0.7, [1.0, 2 * 0.75, *[2 * 0.6] * 200]
    weights = [math.prod(rate / each for each in service[:count]) for count in range(len(service))]
    inside = sum(count * weight for count, weight in enumerate(weights)) / sum(weights)
    system = chain(exponential(1.0), 1, cores=2, slots=10_000)
    system = replace(system, contention=Contention(((1.0, 1.0), (2.0, 0.75), (3.0, 0.6))))
    agree(run(system, Load("poisson", rate), 60_000), inside / rate)


def test_steps_beside_others_vary_around_the_seconds_that_they_take_alone() -> None:
    """The factor is lognormal with mean 1, so its median is exp(-spread^2 / 2)."""
    system = replace(chain(constant(1.0), 1, cores=3, slots=3), contention=Contention(spread=0.4))
    found = run(system, 3, 20_000)
    agree(found, 1.0)
    assert found.p50 == pytest.approx(math.exp(-0.08), rel=0.03)
    assert found.p99 == pytest.approx(math.exp(-0.08 + 0.4 * 2.326), rel=0.05)
    assert run(system, 1, 100).p99 == pytest.approx(1.0)


@pytest.mark.parametrize("flow", FLOWS)
def test_servers_in_a_row_are_independent_queues(flow: str) -> None:
    """Tandem queues: J. R. Jackson, 1957."""
    means = (1.0, 0.5, 0.8)
    found = run(chain(exponential(*means), 3, flow), Load("poisson", 0.7))
    agree(found, sum(1 / (1 / mean - 0.7) for mean in means))
    assert found.bottleneck == "cores of host-0-0"


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("clients", [1, 3, 8])
def test_a_closed_loop_is_a_closed_network(flow: str, clients: int) -> None:
    demands = (1.0, 0.5, 0.8)
    throughput, seconds = mean_value_analysis(demands, clients)
    found = run(chain(exponential(*demands), 3, flow), clients, 12_000)
    agree(found, seconds)
    assert found.goodput == pytest.approx(throughput, rel=0.03)


def test_a_link_is_a_queue_for_its_bandwidth_and_a_delay() -> None:
    """The bandwidth is an M/D/1 queue; the delay of one message does not hold up another message."""
    system = linked(chain(constant(0.0), 1), delay=5.0, bandwidth=1000.0, nbytes=125)  # one second for each message
    found = run(system, Load("poisson", 0.7))
    agree(replace(found, mean=found.mean - 5.0), 1 + 0.7 / (2 * 0.3))
    assert found.bottleneck == "link client->host-0-0"
    assert found.most_used == pytest.approx(0.7, rel=0.03)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("clients", [Load("poisson", 1.1), Load("constant", 0.5), 5], ids=str)
def test_nothing_is_lost_and_nothing_is_made(flow: str, clients: Load | int) -> None:
    """Little's law for the whole system, and the work of each host, from the first arrival to the last departure."""
    seconds = (0.4, 0.9)
    found = trace(chain(Constant((0.0, *seconds)), 2, flow), clients, 2000)
    assert found.in_flight == pytest.approx(found.seconds.sum())
    for server, each in enumerate(seconds):
        assert found.whole[f"cores of host-{server}-0"] == pytest.approx(2000 * each)
        assert found.whole[f"stages of server-{server}"] == pytest.approx(2000 * each)
    assert not found.missed.any()
    assert (found.seconds >= sum(seconds) - 1e-9).all()


def test_a_load_above_capacity_grows_without_end() -> None:
    calm = run(chain(exponential(1.0), 1), Load("poisson", 0.5), 4000)
    wild = run(chain(exponential(1.0), 1), Load("poisson", 1.5), 4000)
    assert (calm.overloaded, wild.overloaded) == (False, True)
    assert wild.goodput == pytest.approx(1.0, rel=0.1)
    assert wild.offered == pytest.approx(1.5, rel=0.1)
    assert wild.growth > 2


def test_the_same_seed_gives_the_same_run() -> None:
    system = chain(exponential(1.0, 0.5), 2, "forward")
    first, again, other = (run(system, Load("poisson", 0.5), 500, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
