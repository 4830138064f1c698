"""The model server of this project, started as from a shell, and the flags that it refuses."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT = 30.0


@contextlib.contextmanager
def ours(*flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tfserving.server", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def test_the_server_prints_its_addresses_and_ends_on_a_signal(models: Path) -> None:
    flags = [f"--model_base_path={models / 'scale'}", "--port=0", "--rest_api_port=0"]
    with ours(*flags) as started:
        assert started.stdout is not None
        word, *addresses = started.stdout.readline().split()
        assert (word, [address.partition("=")[0] for address in addresses]) == ("READY", ["grpc", "rest"])
        assert all(address.partition("=")[2].startswith("127.0.0.1:") for address in addresses)
        started.terminate()
        assert started.wait(WAIT) == 0


REFUSED = {
    "no model": ([], "one of the arguments --model_base_path --model_config_file is required"),
    "two kinds": (["--model_base_path=a", "--model_config_file=b"], "not allowed with argument"),
    "no folder": (["--model_base_path=/nowhere"], "no version of model 'default' below /nowhere"),
    "no file": (["--model_config_file=/nowhere"], "/nowhere: No such file or directory"),
    "no config": ([f"--model_config_file={__file__}"], "is no ModelServerConfig in text form"),
    "other machines": (["--model_base_path=a", "--host=0.0.0.0"], "error: 0.0.0.0 can be reached from other machines"),
    "nothing but that": (
        ["--model_base_path=/nowhere", "--host=0.0.0.0", "--insecure"],
        "\nerror: no version of model",
    ),
    "other flag": (["--model_base_path=a", "--enable_batching"], "unrecognized arguments: --enable_batching"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_flags_are_refused(case: str) -> None:
    flags, words = REFUSED[case]
    with ours(*flags, "--port=0") as started:
        _, errors = started.communicate(timeout=WAIT)
    assert (started.returncode, words in errors) == (2, True), errors
