"""Model servers as processes: their start, their failures, and their ends."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")

from cluster.config import ModelServerConfig
from cluster.errors import ClusterDown
from cluster.launchers import LocalLauncher
from cluster.model_servers.program import _reserved_ports, serve
from cluster.model_servers.selection import Settings, find_binary
from cluster.model_servers.servers import ModelServers
from tests.running import assert_gone, process_of
from tfserving.grpc_client import Client
from transports.address import Address
from transports.errors import UsageError

ROOT = Path(__file__).parents[3]
WAIT = 60.0


@pytest.fixture(scope="module")
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `scale`, which multiplies by 10."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    specs = {"x": tf.TensorSpec((None, 2), "float32", "x")}
    call = tf.function(lambda x: {"y": x * 10}, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(tf.Module(), str(folder / "scale" / "1"), {"serving_default": call})
    return folder


@pytest.fixture(scope="module")
def make_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Writes a shell script that takes the place of `tensorflow_model_server`."""

    def write(script: str) -> str:
        path = tmp_path_factory.mktemp("program") / "tensorflow_model_server"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return write


@pytest.fixture(scope="module")
def program(make_program: Callable[[str], str]) -> Settings:
    """The server of this project as a program in the place of the real one."""
    return Settings(make_program(f'cd {ROOT} && exec {sys.executable} -m tfserving.server "$@"'), threads=1)


def assert_answers(address: Address) -> None:
    """Assert that the model `scale` is served."""
    with Client(address) as client:
        answer = client.predict("scale", {"x": np.ones((1, 2), "float32")})
        assert answer["y"].tolist() == [[10.0, 10.0]]


@pytest.mark.parametrize("kind", ["ours", "program"])
def test_a_server_needs_its_files_only_at_its_start_and_ends_when_it_is_closed(
    launcher: LocalLauncher, models: Path, program: Settings, kind: str, tmp_path: Path
) -> None:
    settings = program if kind == "program" else Settings(threads=1)
    shutil.copytree(models, tmp_path / "models")
    with ModelServers(settings, launcher, [{"scale": tmp_path / "models"}]) as servers:
        shutil.rmtree(tmp_path / "models")
        (found,) = servers.addresses()
        assert_answers(found["grpc"])
        process = process_of(launcher, "model-server-0")
        family = [process, *process.children(recursive=True)]
        assert len(family) == (2 if settings.binary else 1)
    assert_gone(family)
    assert "model-server-0" not in launcher.running()


KILLED = """
import sys, time
from pathlib import Path
from cluster.launchers import LocalLauncher
from cluster.model_servers.selection import Settings
from cluster.model_servers.servers import ModelServers
with LocalLauncher() as launcher, ModelServers(
    Settings(sys.argv[2] or None), launcher, [{"scale": Path(sys.argv[1])}]
) as servers:
    print(*servers.addresses()[0].values(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("killed", ["client", "fork server", "process"])
def test_a_server_never_outlives_what_started_it(program: Settings, models: Path, killed: str) -> None:
    command = [sys.executable, "-c", KILLED, str(models), str(program.binary)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        ports = [Address.parse(word).port for word in client.stdout.readline().split()]
        (fork_server,) = psutil.Process(client.pid).children()
        (process,) = fork_server.children()
        family = [fork_server, process, *process.children(recursive=True)]
        victim = {"client": client, "fork server": fork_server, "process": process}[killed]
        victim.kill()
        assert_gone(family[0 if killed == "client" else 1 :])
        client.kill()
    for port in ports:
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_the_error_of_a_server_that_cannot_load_its_model_is_quoted(launcher: LocalLauncher, tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "other.txt").write_text("no model")
    with (
        ModelServers(Settings(), launcher, [{"broken": tmp_path}]) as servers,
        pytest.raises(
            ClusterDown, match=r"model-server-0 \(TFS-compatible\) ended with status 2: error: model 'broken'"
        ),
    ):
        servers.addresses()


def test_a_program_that_ends_early_is_reported_with_its_status_and_last_line(
    launcher: LocalLauncher, models: Path, make_program: Callable[[str], str]
) -> None:
    program = make_program("echo $1 $2 >&2; echo no such luck >&2; exit 3")
    with (
        ModelServers(Settings(find_binary(program)), launcher, [{"scale": models}]) as servers,
        pytest.raises(ClusterDown, match=r"model-server-0 \(TF Serving\) ended with status 3: no such luck"),
    ):
        servers.addresses()


def test_a_program_that_cannot_be_run_is_refused_at_every_start(tmp_path: Path) -> None:
    """The first start leaves its configuration in the folder."""
    config = ModelServerConfig(models=("m",), folder=str(tmp_path), binary="/nowhere")
    for _ in range(2):
        with ExitStack() as stack, pytest.raises(UsageError, match="binary: '/nowhere' cannot be run: No such file"):
            serve(config, stack, threading.Event())  # type: ignore[arg-type]


def test_the_binary_is_found_on_the_path(make_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program("exit 3")
    monkeypatch.setenv("PATH", "")
    assert find_binary() is None
    monkeypatch.setenv("PATH", str(Path(program).parent))
    assert find_binary() == program
    with pytest.raises(UsageError, match="'/nowhere' is no program that can be run"):
        find_binary("/nowhere")


def test_reserved_ports_differ_and_a_program_may_bind_them() -> None:
    with _reserved_ports("127.0.0.1") as first, _reserved_ports("127.0.0.1") as second:
        assert len({*first, *second}) == 4
        for port in (*first, *second):
            with socket.create_server(("127.0.0.1", port)) as server:
                assert server.getsockname()[1] == port


IN_DOCKER = ROOT / "cluster" / "model_servers" / "in_docker.sh"
GIVEN = ["--port=8500", "--rest_api_port=8501", "--model_config_file=/some where/server-0.config"]


def test_the_official_image_gets_the_flags_and_the_folder(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    assert find_binary(str(IN_DOCKER)) == str(IN_DOCKER)
    for flags, mounted in ((GIVEN, ["--volume", "/some where:/some where:ro"]), (["--version"], [])):
        variables = {"DOCKER": str(docker), "folder": "/elsewhere"}
        out = subprocess.run([IN_DOCKER, *flags], env=variables, capture_output=True, text=True, check=True).stdout
        words = out.splitlines()
        assert words[:2] == ["run", "--rm"]
        assert words[words.index("--network") + 1] == "host"
        assert words[words.index("tensorflow/serving") :] == ["tensorflow/serving", *flags]
        assert [word for word in words if word == "--volume" or ":ro" in word] == mounted
