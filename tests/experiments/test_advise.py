"""`splitbench advise` on a profile with invented figures: what it ranks, prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts import Host
from experiments.advise.__main__ import main
from experiments.store import environment, files
from experiments.store import profile as store
from tests.experiments import profiles

LINK = "edge<->cloud rtt:10ms,bandwidth:10Mbit"
SLOW = "edge<->cloud rtt:400ms,bandwidth:10Mbit"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profiles.write(tmp_path_factory.mktemp("profiles") / "edge-cloud")


def advise(profile: Path, *words: str) -> int:
    return main(["--profile", str(profile), *words])


def rows_of(profile: Path, out: Path, *words: str) -> list[dict[str, str]]:
    """The rows of advice.csv."""
    assert advise(profile, *words, "--out", str(out)) == 0
    with (out / files.ADVICE).open() as file:
        return list(csv.DictReader(file))


def test_every_place_is_ranked_by_its_predicted_seconds(profile: Path, tmp_path: Path) -> None:
    found = rows_of(profile, tmp_path / "out", "--link", LINK)
    assert {row["hosts"] for row in found} == {"edge", "cloud", "edge+cloud", "cloud+edge"}
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)
    assert (found[0]["hosts"], found[0]["cut"], found[0]["transport"]) == ("cloud", "", "tcp")
    expected = 0.01 + (1e-3 + 204 * 1e-8) + 0.01 + 8 * (4 + 200) / 1e7
    assert seconds[0] == pytest.approx(expected, rel=1e-6)


def test_over_a_slow_link_the_device_keeps_the_model(profile: Path, tmp_path: Path) -> None:
    assert rows_of(profile, tmp_path / "out", "--link", SLOW)[0]["hosts"] == "edge"


def test_operations_that_stay_are_not_moved(profile: Path, tmp_path: Path) -> None:
    found = rows_of(profile, tmp_path / "out", "--link", LINK, "--keep-first", "1")
    assert (found[0]["hosts"], found[0]["cut"]) == ("edge+cloud", "o2")
    assert {row["hosts"] for row in found} == {"edge", "edge+cloud"}


def test_the_goal_throughput_takes_the_smallest_bottleneck(profile: Path, tmp_path: Path) -> None:
    found = rows_of(profile, tmp_path / "out", "--link", LINK, "--goal", "throughput")
    rates = [float(row["per_second"]) for row in found]
    assert rates == sorted(rates, reverse=True)


def test_memory_keeps_groups_from_hosts(profile: Path, tmp_path: Path) -> None:
    found = rows_of(profile, tmp_path / "out", "--link", LINK, "--memory", "cloud=1015000")
    assert all(row["hosts"] != "cloud" for row in found)
    assert all(float(row["memory_bytes"]) <= 1_020_000 for row in found)


@pytest.mark.parametrize("limit", ["cpu = 0.25", "slowdown = 4"])
def test_a_limit_slows_a_host_down(limit: str, profile: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(f'[[host]]\nname = "edge"\nclient = true\n{limit}\n[[host]]\nname = "cloud"\n')
    whole, slow = (
        next(row for row in rows_of(profile, tmp_path / name, *words) if row["hosts"] == "edge")
        for name, words in (("whole", ()), ("slow", ("--hosts", str(hosts))))
    )
    assert float(slow["seconds"]) == pytest.approx(4 * float(whole["seconds"]), rel=0.05)


def test_it_prints_where_the_best_cut_changes(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(profile, "--link", LINK, "--top", "3") == 0
    printed = capsys.readouterr().out
    assert "whole on cloud" in printed
    assert "round trip: another cut is best above" in printed
    assert "bandwidth:" in printed


def test_hosts_without_a_link_are_named(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(profile) == 0
    assert "no link is given between edge and cloud: they are taken as one machine" in capsys.readouterr().out
    assert advise(profile, "--link", LINK) == 0
    assert "no link" not in capsys.readouterr().out


def test_a_machine_alone_has_servers(tmp_path: Path) -> None:
    alone = profiles.write(tmp_path / "alone", machines=())
    found = rows_of(alone, tmp_path / "out", "--servers", "3", "--goal", "throughput")
    assert found[0]["hosts"] == "server-0+server-1+server-2"
    assert found[0]["cut"] == "o2+o3"


def test_it_answers_without_tensorflow(profile: Path) -> None:
    code = (
        "import sys\nfrom experiments.advise.__main__ import main\n"
        f"status = main(['--profile', {str(profile)!r}, '--link', {LINK!r}])\n"
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


REFUSED: dict[str, tuple[list[str], str]] = {
    "an unknown host": (["--hosts", "edge:1,pi:1"], "host pi is not in the profile"),
    "a link of an unknown host": (["--link", "edge<->moon rtt:1ms"], "no host 'moon'"),
    "an unknown transport": (["--transport", "rest"], "the profile has tcp, grpc; profile it: splitbench profile"),
    "another model": (["--model", "ResNet50"], "--model ResNet50: the profile"),
    "another engine": (["--engine", "eager"], "is of frozen; make one with: splitbench profile"),
    "another batch": (["--batch", "8"], "--batch 8: the profile"),
    "a deadline": (["--deadline", "0.0001"], "no cut answers within 0.0001 s; the fastest takes"),
    "too little memory": (["--memory", "edge=1", "--memory", "cloud=1"], "no cut fits into the memory of the hosts"),
    "a memory of no host": (["--memory", "moon=1"], "no host 'moon'"),
    "a memory that is none": (["--memory", "edge"], "not HOST=BYTES"),
    "too many operations": (["--keep-first", "9"], "9 operations stay, and the model has 4"),
    "nowhere to verify": (["--verify"], "Give --out FOLDER"),
    "a run of no results": (["--fit", "nowhere"], "cannot read nowhere"),
    "a folder that even root cannot write to": (
        ["--out", "/proc/advice"],
        "--out /proc/advice: /proc cannot be written",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused(case: str, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, text = REFUSED[case]
    assert advise(profile, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_an_earlier_advice_is_not_overwritten(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rows_of(profile, tmp_path, "--link", LINK)
    assert advise(profile, "--out", str(tmp_path)) == 2
    assert "already holds an advice (advice.csv); give another" in capsys.readouterr().err
    with (tmp_path / files.ADVICE).open() as file:
        assert list(csv.DictReader(file)) == first


def test_operations_can_only_stay_where_the_client_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = profiles.write(tmp_path / "nobody", [Host(name="edge"), Host(name="cloud")])
    assert advise(nobody, "--keep-first", "1") == 2
    assert "set client = true" in capsys.readouterr().err


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"versions": {"python": "2.7"}}, "it is of another machine or version: python 2.7"),
    "another machine": ({"processor": {"model": "Z80", "logical_cores": 1, "affinity": 1}}, "model Z80"),
    "not complete": ({"complete": False, "failure": "it was interrupted"}, "it is not complete (it was interrupted)"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_profile_of_something_else_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, text = OTHERS[case]
    assert advise(profiles.write(tmp_path / "other", **record)) == 2
    assert text in capsys.readouterr().err


def test_a_profile_of_another_machine_is_used_on_request(tmp_path: Path) -> None:
    other = profiles.write(tmp_path / "other", processor={"model": "Z80", "logical_cores": 1, "affinity": 1})
    assert advise(other, "--versions", "any") == 0


def test_without_a_profile_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "ResNet50"]) == 2
    assert main(["--profile", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "splitbench profile --model ResNet50 --out FOLDER" in first
    assert "holds no profile.csv" in second


def test_without_any_flag_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--profile: advice needs one" in capsys.readouterr().err


def test_links_between_machines_are_those_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = profiles.write(tmp_path / "ways")
    record = environment.read(known)
    record["experiment"]["cluster"] = "ssh"
    way = {"from": "edge", "to": "cloud", "rtt": 0.4, "bandwidth": 1e7}
    record["machines"] = {"ways": {"before": [way]}}
    (known / files.ENVIRONMENT).write_text(json.dumps(record))
    assert rows_of(known, tmp_path / "out")[0]["hosts"] == "edge"
    record["machines"] = {}
    (known / files.ENVIRONMENT).write_text(json.dumps(record))
    assert advise(known) == 2
    assert "the profile has no link edge->cloud; give it: --link" in capsys.readouterr().err


def test_a_line_is_found_in_messages_that_grow_evenly(profile: Path) -> None:
    cost = store.read(profile).message_cost("grpc")
    assert cost.call.value == pytest.approx(profiles.CALL["grpc"])
    assert cost.byte.value == pytest.approx(profiles.BYTE)
    assert cost.misfit == pytest.approx(0.0, abs=1e-9)
