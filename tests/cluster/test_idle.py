"""Idle processors that poll: the request that the kernel holds, and the refusals."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import idle
from cluster.idle import REQUESTS, idling
from experiments.sizes.__main__ import read
from experiments.sizes.study import study_of
from experiments.spec.flags import parse
from transports.errors import UsageError

HOLD = "from cluster.idle import idling\nwith idling('poll'): print('holds', flush=True); input()"


@pytest.fixture
def possible() -> None:
    """Skip where idle processors cannot be told to poll."""
    try:
        idle.check("poll")
    except UsageError as error:
        pytest.skip(str(error))


def longest_wakeup() -> int:
    """Microseconds that a wake-up may take, by the kernel's own account of all requests."""
    with REQUESTS.open("rb", buffering=0) as file:
        return int(struct.unpack("i", file.read(4))[0])


def test_processors_poll_within_the_block_alone(possible: None) -> None:
    before = longest_wakeup()
    with idling("poll"):
        assert longest_wakeup() == 0
    assert longest_wakeup() == before


def test_the_system_decides_by_default(possible: None) -> None:
    before = longest_wakeup()
    with idling("system"):
        assert longest_wakeup() == before


def test_a_killed_process_leaves_no_request(possible: None) -> None:
    before = longest_wakeup()
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        assert longest_wakeup() == 0
        process.send_signal(signal.SIGKILL)
    assert longest_wakeup() == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused() -> None:
    words = HOLD.replace("\n", "\nimport os; os.setuid(65534)\n")
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False, input="\n")
    assert done.returncode == 1
    assert "UsageError: --idle poll: " in done.stderr


@pytest.mark.parametrize("command", ["run", "sizes"])
@pytest.mark.parametrize("lacking", ["REQUESTS", "DRIVER", "driver"])
def test_a_system_that_cannot_is_refused_before_anything_starts(
    command: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS", "DRIVER"):
        (tmp_path / name).write_text("none\n" if lacking == "driver" else "menu\n")
        monkeypatch.setattr(idle, name, tmp_path / name)
    if lacking != "driver":
        monkeypatch.setattr(idle, lacking, tmp_path / "absent" / "file")
    with pytest.raises(UsageError, match=r"--idle poll: .*valid: system") as refused:
        _ = parse(["--idle", "poll"]) if command == "run" else study_of(read(["--idle", "poll"]))
    assert "\n" not in str(refused.value)


def test_other_machines_are_refused() -> None:
    with pytest.raises(UsageError, match="--idle: it concerns this machine alone; leave it or --cluster ssh out"):
        parse(["--idle", "poll", "--cluster", "ssh", "--hosts", "far:5"])
