"""The head of Ray ends everything of Ray, also while that starts."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cluster.config import RayConfig
from cluster.launchers import LocalLauncher, Order
from tests.cluster.runtimes.conftest import usable
from tests.cluster.test_lease_client import eventually
from tests.running import assert_gone, below

ORDER = Order("ray", RayConfig(token=64 * "a"))


def orphans() -> set[Path]:
    """Folders of heads that are gone."""
    found = Path("/tmp").glob("splitbench-[0-9]*-*")
    return {folder for folder in found if not psutil.pid_exists(int(folder.name.split("-")[1]))}


@pytest.mark.slow
def test_a_head_that_is_stopped_while_ray_starts_leaves_nothing() -> None:
    usable("ray")
    before = orphans()
    with LocalLauncher() as launcher:
        launcher.start(ORDER)
        launcher.stop(["ray"])  # it is signalled as soon as it is forked
        launcher.start(ORDER)
        eventually(lambda: "gcs_server" in below(launcher.pid).values())
        started = [*below(launcher.pid)]
        launcher.stop(["ray"])
        assert_gone(started)
        eventually(lambda: orphans() <= before)  # other tests leave some for a moment
