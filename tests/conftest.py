"""Rules of the whole suite: fast tests first, where random inputs come from, and which tests run side by side.

`make test` starts three worker processes (pytest-xdist), since many tests wait; each worker runs whole files. A test
marked `alone` counts what the whole machine does: it starts when every other worker is between two tests, and these
workers wait until it has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cluster import scratch
from cluster.device import HIDDEN, VISIBLE

# No deadline: a busy machine must not fail a test. `steady` draws the same inputs each time, `explore` other ones.
PROFILES = {"steady": True, "explore": False}
for name, steady in PROFILES.items():
    settings.register_profile(
        name, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=steady, print_blob=True
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# Background processes of a shell ignore SIGINT, and a process under nohup ignores SIGHUP. The processes that tests
# start and end must not inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# TensorFlow in this process would take all memory of every card that it sees. Tests on a card show it to others.
GIVEN = os.environ.get(VISIBLE)
os.environ[VISIBLE] = HIDDEN

LOCKS = pytest.StashKey[str]()
"""The folder with the locks of the workers of this run."""


# TensorFlow creates many objects, and each garbage collection would walk all of them. So it is off while pytest
# collects the tests, and later garbage collections skip the objects that exist by then (`gc.freeze`).
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move tests marked slow to the end, in the same order. Tests marked zoo run only if `-m` names this mark."""
    if "zoo" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("zoo")])
        items[:] = [item for item in items if not item.get_closest_marker("zoo")]
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker the cards of this run, and the folder with its locks, which is deleted when the run ends, or by
    the next run. A worker inherits the environment in which the cards are hidden."""
    config: pytest.Config = node.config
    node.workerinput["cards"] = GIVEN
    if LOCKS not in config.stash:
        stack = contextlib.ExitStack()
        config.stash[LOCKS] = str(stack.enter_context(scratch.folder()))
        config.add_cleanup(stack.close)
    node.workerinput["locks"] = config.stash[LOCKS]


@pytest.fixture(scope="session")
def given_cards(pytestconfig: pytest.Config) -> str | None:
    """The cards that the run was given, as the environment's variable `VISIBLE`; None if it was not set."""
    workerinput: dict[str, str | None] = getattr(pytestconfig, "workerinput", {"cards": GIVEN})
    return workerinput["cards"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hold this worker's turn during set-up, call and tear-down of a test."""
    locks = getattr(item.config, "workerinput", {}).get("locks")
    alone = item.get_closest_marker("alone") is not None
    with _turn(Path(locks), alone) if locks else contextlib.nullcontext():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep all that tests and their processes leave in TMPDIR in one folder, and delete the folder at the end."""
    tmp_path_factory.getbasetemp()  # outside that folder: pytest keeps the files of the last tests
    scratch.home()
    yield
    scratch.leave()


@contextlib.contextmanager
def _turn(folder: Path, alone: bool) -> Iterator[None]:
    """Hold the lock `turn` of all workers: exclusively if `alone`, and otherwise shared.

    Each worker takes the lock `gate` first, so no worker can overtake another that waits for its exclusive turn."""
    with (folder / "turn").open("w") as turn, (folder / "gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
