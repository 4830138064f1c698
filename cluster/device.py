"""The cards (GPUs) that a process may use. CUDA reads the choice from the environment when TensorFlow first runs.

By default every card is hidden, since TensorFlow reserves all memory of a card in each process that sees the card.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import msgspec

from transports.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDDEN = "-1"
"""The value of `VISIBLE` that hides every card."""
ASK = (
    "import json, tensorflow as tf; cards = tf.config.list_physical_devices('GPU'); "
    "print(json.dumps([tf.config.experimental.get_device_details(card).get('device_name', '') for card in cards]))"
)
PATIENCE = 120.0
"""Seconds within which a process has to load TensorFlow and list the cards."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The device on which processes execute stages: the processor, or cards. `tf32`: cards may multiply float32 values
    in TF32, with 10 bits of fraction."""

    cards: tuple[str, ...] = ()
    """Names of cards, as in CUDA's variable `VISIBLE`; empty: the processor."""
    tf32: bool = False

    def share(self, number: int) -> Device:
        """The device of process `number`: one card, assigned in turn."""
        return Device(self.cards[number % len(self.cards) :][:1], self.tf32) if self.cards else self

    def restrict(self) -> None:
        """Let this process and its children use this device alone. Call it before TensorFlow runs."""
        os.environ[VISIBLE] = ",".join(self.cards) or HIDDEN
        if self.cards:
            os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # several processes share a card
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorFlow multiplies in TF32 unless told otherwise
            if self.tf32:
                del os.environ["NVIDIA_TF32_OVERRIDE"]


PROCESSOR = Device()


@functools.cache
def cards() -> dict[str, str]:
    """Id -> model of each card that TensorFlow can use, in TensorFlow's order. Raises `UsageError` if there is none.

    A separate process lists them, since a process that has listed its cards cannot hide them any more.
    """
    try:
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=PATIENCE, check=True)
        models = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise UsageError(
            f"--device gpu: TensorFlow cannot list the cards ({type(error).__name__}); valid: cpu"
        ) from None
    given = os.environ.get(VISIBLE)
    if not models:
        hidden = f" ({VISIBLE} is {given!r})" if given is not None else ""
        raise UsageError(
            f"--device gpu: TensorFlow finds no card{hidden}; it needs an NVIDIA driver and the CUDA libraries "
            "(pip install 'tensorflow[and-cuda]'); valid: cpu"
        )
    names = given.split(",") if given else map(str, range(len(models)))
    return dict(zip(names, models, strict=False))
