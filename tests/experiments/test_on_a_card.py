"""Stages on a card (GPU), from end to end. Skipped where TensorFlow finds none."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.device import VISIBLE, cards
from experiments.store import environment, samples
from tests.running import Run, assert_gone
from transports.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def card(model: Path, given_cards: str | None) -> Iterator[str]:
    """The name of the first card, which processes of these tests may use. Skips the tests where there is none.

    `model`: this process has to build the model first, while it sees no card.
    """
    with pytest.MonkeyPatch.context() as patch:
        if given_cards is None:
            patch.delenv(VISIBLE)
        else:
            patch.setenv(VISIBLE, given_cards)
        try:
            yield next(iter(cards()))
        except UsageError as error:
            pytest.skip(str(error))
        finally:
            cards.cache_clear()


def used() -> int:
    """Megabytes in use on all cards; 0 without nvidia-smi."""
    if not (program := shutil.which("nvidia-smi")):
        return 0
    words = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()))


def test_several_processes_share_a_card(card: str, model: Path, tmp_path: Path) -> None:
    """Unlimited, each would take all of the card's memory. The gate compares answers with the model's on the card."""
    out, before = tmp_path / "out", used()
    words = ("--device", "gpu", "--transport", "none,tcp", "--mode", "submodel", "--servers", 2)
    more = ("--engine", "eager,frozen", "--flow", "nested,forward", "--runs", 5, "--out", out)
    with Run("--model", model, *words, *more) as going:
        going.wait_for("requests")
        during, processes = used(), going.cluster()
        status, last = going.finish()
    assert status == 0, last
    assert_gone(processes)
    assert during > before or not shutil.which("nvidia-smi")
    record = environment.read(out)
    assert record["cards"] == cards()
    assert record["variables"][VISIBLE].split(",")[0] == card
    assert record["variables"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "lowest precision on the path is float32" in record["gate"]["reason"]
    assert samples.read(out)["cell"].nunique() == 2 + 2 * 2 * 2


def test_tf32_widens_the_tolerance(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--device", "gpu", "--tf32", "on", "--transport", "tcp", "--runs", 2)
    with Run("--model", model, *words, "--out", out) as going:
        status, last = going.finish()
    assert status == 0, last
    assert "lowest precision on the path is tf32" in environment.read(out)["gate"]["reason"]
    assert "NVIDIA_TF32_OVERRIDE" not in environment.read(out)["variables"]
