"""How a model server is started, what it says when it cannot be, and that it never outlives who started it."""

from __future__ import annotations

import contextlib
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.errors import ClusterDown
from cluster.model_servers import process
from cluster.model_servers.process import ModelServer
from cluster.model_servers.selection import Settings, find_binary
from tests.tfserving.conftest import BINARY, family
from tfserving.grpc_client import Client
from transports.errors import UsageError

ROOT = Path(__file__).parents[2]
WAIT = 30.0


def gone(pids: list[int]) -> bool:
    """Whether all of these processes end soon."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(WAIT)
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_a_server_of_one_stage(models: Path) -> None:
    with ModelServer.of_stage(models, "scale", Settings(BINARY, threads=1)) as server, Client(server.grpc) as client:
        answer = client.predict("scale", {"x": np.ones((1, 2), "float32")})
        assert answer["y"].tolist() == [[10.0, 10.0]]
        pids = family(server.pid)
    assert gone(pids)


KILLED = """
import sys, time
from pathlib import Path
from cluster.model_servers.selection import Settings
from cluster.model_servers.process import ModelServer
with ModelServer.of_stage(Path(sys.argv[1]), "scale", Settings(sys.argv[2] or None)) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


def test_a_server_goes_when_its_starter_is_killed(models: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(models), BINARY or ""]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = family(int(starter.stdout.readline()))
        starter.kill()
    assert gone(pids)


@contextlib.contextmanager
def ours(*flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tfserving.server", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def test_our_server_says_where_it_listens_and_ends_when_told(models: Path) -> None:
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
def test_our_server_refuses_what_it_cannot_use(case: str) -> None:
    flags, words = REFUSED[case]
    with ours(*flags, "--port=0") as started:
        _, errors = started.communicate(timeout=WAIT)
    assert (started.returncode, words in errors) == (2, True), errors


def test_a_server_that_ends_early_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    with pytest.raises(
        ClusterDown, match=r"ended with status 2: error: model 'broken': .*/1/saved_model.pb is not there"
    ):
        ModelServer.of_stage(tmp_path, "broken").__enter__()


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """A program in the real server's place that says why it ends."""
    path = tmp_path / "tensorflow_model_server"
    path.write_text("#!/bin/sh\necho $1 $2 >&2; echo no such luck >&2; exit 3\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_real_server_is_quoted_too(failing: Path, tmp_path: Path) -> None:
    server = ModelServer.of_stage(tmp_path, "model", Settings(find_binary(str(failing))))
    assert server.kind == "TF Serving"
    with pytest.raises(ClusterDown, match=r"TF Serving\) ended with status 3: no such luck"):
        server.__enter__()


def test_the_binary_is_sought(failing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_binary() is None
    monkeypatch.setenv("PATH", str(failing.parent))
    assert find_binary() == str(failing)
    with pytest.raises(UsageError, match="'/nowhere' is no program that can be run"):
        find_binary("/nowhere")


def test_a_keeper_ends_what_it_keeps() -> None:
    command = [sys.executable, "-m", "cluster.model_servers.supervisor", "sh", "-c", "echo $$; exec sleep 600"]
    for end in ("close", "terminate", "kill"):
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            pid = int(keeper.stdout.readline())
            keeper.stdin.close() if end == "close" else getattr(keeper, end)()
            # Its end closes the pipe that it shares with nobody else.
            assert select.select([keeper.stdout], [], [], WAIT)[0]
        assert gone([pid])


def test_free_ports_differ() -> None:
    assert len(set(process._free_ports(20))) == 20


IN_DOCKER = ROOT / "cluster" / "model_servers" / "in_docker.sh"
GIVEN = ["--port=8500", "--rest_api_port=8501", "--model_config_file=/some where/server-0.config"]


def test_the_official_image_is_given_the_flags_and_the_folder(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    assert find_binary(str(IN_DOCKER)) == str(IN_DOCKER)
    for flags, mounted in ((GIVEN, ["--volume", "/some where:/some where:ro"]), (["--version"], [])):
        variables = {"DOCKER": str(docker), "folder": "/elsewhere"}
        said = subprocess.run([IN_DOCKER, *flags], env=variables, capture_output=True, text=True, check=True).stdout
        words = said.splitlines()
        assert words[:2] == ["run", "--rm"]
        assert words[words.index("--network") + 1] == "host"
        assert words[words.index("tensorflow/serving") :] == ["tensorflow/serving", *flags]
        assert [word for word in words if word == "--volume" or ":ro" in word] == mounted
