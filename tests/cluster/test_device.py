"""Cards: which card each process sees, by the environment of real processes, and the refusal without a card."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import device
from cluster.config import RegistryConfig
from cluster.device import PROCESSOR, VISIBLE, Device, cards
from cluster.errors import ClusterDown
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher, Order
from cluster.model_servers import selection
from cluster.model_servers.servers import ModelServers
from experiments.spec.flags import parse
from transports.errors import UsageError


class Recording(LocalLauncher):
    """A launcher that also keeps the orders that it was given, by name."""

    def __enter__(self) -> Recording:
        self.orders: dict[str, Order] = {}
        super().__enter__()
        return self

    def start(self, order: Order) -> None:
        self.orders[order.name] = order
        super().start(order)


@pytest.fixture(scope="module")
def launcher() -> Iterator[Recording]:
    with Recording() as launcher:
        yield launcher


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this machine look like one without a card."""
    monkeypatch.setenv(VISIBLE, device.HIDDEN)
    cards.cache_clear()
    yield
    cards.cache_clear()


SEEN = {
    "processor": (PROCESSOR, "-1,,"),
    "card": (Device(("GPU-1b", "0")), "GPU-1b,true,0"),
    "TF32": (Device(("3",), tf32=True), "3,true,"),
}
"""Case -> the device of an experiment, and the variables of its first process."""
PROGRAM = "echo $CUDA_VISIBLE_DEVICES,$TF_FORCE_GPU_ALLOW_GROWTH,$NVIDIA_TF32_OVERRIDE >&2\nexit 3\n"


@pytest.mark.parametrize("case", SEEN)
def test_a_program_that_a_process_starts_sees_the_cards_of_its_document(
    case: str, launcher: Recording, tmp_path: Path
) -> None:
    whole, seen = SEEN[case]
    (program := tmp_path / "program").write_text(f"#!/bin/sh\n{PROGRAM}")
    program.chmod(0o755)
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "saved_model.pb").touch()
    settings = selection.Settings(str(program), device=whole)
    with (
        ModelServers(settings, launcher, [{"model": tmp_path}]) as servers,
        pytest.raises(ClusterDown, match=f"ended with status 3: {seen}$"),
    ):
        servers.addresses()


def test_nodes_take_the_cards_in_turn_and_the_registry_none(launcher: Recording, tmp_path: Path) -> None:
    """Here no node holds a stage, so no node uses its card."""
    settings = Settings(("grpc",), 3, tmp_path, 4, device=Device(("0", "1")))
    with Cluster(settings, launcher):
        pass
    given = {name: order.config.device.cards for name, order in launcher.orders.items() if "model" not in name}
    assert given == {"registry": (), "node-0": ("0",), "node-1": ("1",), "node-2": ("0",)}
    assert isinstance(launcher.orders["registry"].config, RegistryConfig)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--device", "gpu"], "--device gpu: TensorFlow finds no card (CUDA_VISIBLE_DEVICES is '-1'); it needs"),
        (["--tf32", "on"], "--tf32 on: a processor has no TF32; valid with --device gpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(argv: list[str], message: str, no_card: None) -> None:
    with pytest.raises(UsageError) as refused:
        parse(argv)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_python_that_cannot_list_cards_is_refused(no_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(UsageError, match=r"TensorFlow cannot list the cards \(FileNotFoundError\); valid: cpu"):
        cards()
