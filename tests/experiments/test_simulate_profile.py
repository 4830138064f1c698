"""Simulations of cuts that nobody has run, from a profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.hosts import Host
from experiments.cli import main
from experiments.simulate import profiled
from experiments.simulate.engine import simulate
from experiments.simulate.profiled import Asked
from experiments.simulate.topology import Layout, system_of
from experiments.store import profile as store
from tests.experiments import profiles
from tests.experiments.profiles import BYTE, CALL, SECONDS, SIZES

BYTES = [4 * size for size in (1, *SIZES)]
"""Bytes that cross a cut before each operation; last, the bytes of the model's output."""


def alone(folder: Path, asked: Asked) -> float:
    """Simulated seconds of a request that is alone."""
    profile = store.read(folder)
    run = profiled.run_of(profile, asked)
    return float(simulate(system_of(run, profiled.fit_of(profile, run), Layout()), 1, 1, 0).seconds[0])


def names(folder: Path) -> list[str]:
    return [operation.name for operation in store.read(folder).graph.operations]


@pytest.mark.parametrize("transport", CALL)
@pytest.mark.parametrize("cuts", [(), (2,), (1, 3), (1, 2, 3)])
def test_a_request_takes_the_sum_of_stages_and_messages(transport: str, cuts: tuple[int, ...], tmp_path: Path) -> None:
    folder = profiles.write(tmp_path / "profile", ())
    operations = names(folder)
    found = alone(folder, Asked(transport, ",".join(operations[at] for at in cuts), "nested"))
    messages = sum(CALL[transport] + BYTE * (BYTES[at] + BYTES[-1]) for at in (0, *cuts))
    assert found == pytest.approx(sum(SECONDS["here"]) + messages)


@pytest.mark.parametrize(("flow", "parts"), [("hub", 1.0), ("forward", 0.5)])
def test_other_flows_wait_for_other_messages(flow: str, parts: float, tmp_path: Path) -> None:
    """In `forward` no request waits for acknowledgements, which hardly slow the stages; the result is a message."""
    folder = profiles.write(tmp_path / "profile", ())
    found = alone(folder, Asked("tcp", names(folder)[2], flow))
    there = [BYTES[0], BYTES[2], *([BYTES[-1]] if flow == "forward" else [])]
    back = [] if flow == "forward" else [BYTES[2], BYTES[-1]]
    messages = parts * CALL["tcp"] * len(there) + BYTE * sum(there + back)
    assert found == pytest.approx(sum(SECONDS["here"]) + messages, rel=0.006 if flow == "forward" else 1e-6)


def test_each_server_has_the_seconds_of_its_host(tmp_path: Path) -> None:
    folder = profiles.write(tmp_path / "profile")
    found = alone(folder, Asked("tcp", names(folder)[2], "nested"))
    messages = 2 * CALL["tcp"] + BYTE * (BYTES[0] + BYTES[2] + 2 * BYTES[-1])
    assert found == pytest.approx(sum(SECONDS["edge"][:2]) + sum(SECONDS["cloud"][2:]) + messages)


def test_the_command_simulates_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = profiles.write(tmp_path / "profile", ())
    words = ["simulate", str(folder), "--requests", "200", "--cut", names(folder)[2], "--load", "poisson:10/s"]
    assert main([*words, "--flow", "forward", "--hosts", "each", "--replicas", "1,2"]) == 0
    out = capsys.readouterr().out
    assert "From the profile profile: constant seconds" in " ".join(out.split())
    assert "cores of host-1" in out  # the stages after the cut take 0.07 s of 0.1 s


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--transport", "zmq"], "--transport 'zmq': not in the profile; valid: tcp, grpc"),
        (["--cut", "nothing"], "no operation 'nothing'"),
        (["--cut", "equal"], "--cut equal: name the operations that begin a new server; valid: "),
        (["--flow", "round"], "--flow 'round': no flow; valid: nested, hub, forward"),
        (["--cell", "grpc"], "--cell: a profile has no cells; give --transport, --cut and --flow"),
    ],
    ids=str,
)
def test_what_a_profile_does_not_know(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(profiles.write(tmp_path / "profile", ())), *words]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_a_host_with_limits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machines = (Host(name="edge", client=True, servers=(0,), cpu=0.25), Host(name="cloud", servers=(1,)))
    assert main(["simulate", str(profiles.write(tmp_path / "profile", machines))]) == 2
    assert "host edge had limits of its cores" in capsys.readouterr().err
