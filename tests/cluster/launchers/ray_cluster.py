"""A Ray cluster of our own on three hosts of `tools.hosts`, and clients inside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.running import ROOT
from tools.hosts import Network, network

ADDRESSES = {"head": "10.77.0.1", "edge": "10.77.0.2", "cloud": "10.77.0.3"}
PORT = 6379
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 32 * "ab"}
CLUSTER = f"ray:{ADDRESSES['head']}:{PORT}"
SHORT = Path("/tmp")
"""For Ray's folders. A Unix socket's path has at most 107 bytes."""
PROGRAMS = re.compile(r"cluster\.launchers\.\w+|ray::Actor.*")
"""A word in the command lines of our processes."""
CLIENT = """
import json, sys
from dataclasses import replace
import transports
from cluster.config import RegistryConfig
from cluster.errors import ClusterDown
from cluster.hosts import Host
from cluster.launchers import Order, ray_hosts
from cluster.launchers.piped import PipedLauncher
from transports.base import Message
from transports.errors import UsageError

def who(address):
    with transports.make("rpyc").connect(address) as connection:
        return connection.call(Message("who", {"partition": "p", "transport": "rpyc"}), 10.0).method

def serve(launcher):
    for name, address in at.items():
        config = RegistryConfig(servers=1, transports=("rpyc",), bind=address, insecure=True)
        launcher.start(Order(f"registry-{name}", config, host=name))
    found = {name: launcher.addresses(f"registry-{name}")["rpyc"] for name in at}
    folders = {name: hello.folder for name, hello in launcher.hosts.items()}
    answers = [who(address) for address in found.values()]
    print(json.dumps({"hosts": {name: address.host for name, address in found.items()}, "folders": folders,
                      "answers": answers}), flush=True)
    if sys.stdin.readline():
        launcher.check(60)
        print("no failure", flush=True)

cluster, silence, *hosts = sys.argv[1:]
silence = float(silence)
try:
    hosts = [Host(**json.loads(host)) for host in hosts]
    ways, addresses = ray_hosts.ways(cluster, hosts)
    at = dict(zip(ways, addresses))
    launcher = PipedLauncher({name: replace(way, silence=silence) for name, way in ways.items()})
    if not silence:
        launcher.check_first = lambda: serve(launcher)
    with launcher:
        if silence:
            serve(launcher)
except (ClusterDown, UsageError) as error:
    print(type(error).__name__, error, flush=True)
"""


@dataclass(frozen=True)
class Job:
    """A client that uses the cluster."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def facts(self) -> dict[str, Any]:
        """What it says when a registry on each host is ready."""
        line = self.line()
        assert line.startswith("{"), line
        return dict(json.loads(line))

    def failure(self) -> str:
        """What it says when a process ends."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@dataclass(frozen=True)
class RayCluster:
    net: Network

    @contextmanager
    def job(
        self,
        *hosts: Mapping[str, Any],
        cluster: str = CLUSTER,
        silence: float = 0.0,
        inside: tuple[str, ...] = (),
        **variables: str | None,
    ) -> Iterator[Job]:
        """Run a client in the namespace of the head, with its environment changed by `variables` (None: removed).

        `silence`: seconds without an order after which a fork server ends; 0: the client works before TensorFlow is
        loaded, when there is no limit. `inside`: the words of a command that runs the client.
        """
        environment = {**os.environ, **TOKEN, **variables, "PYTHONPATH": str(ROOT)}
        words = [*inside, sys.executable, "-c", CLIENT, cluster, str(silence), *map(json.dumps, hosts)]
        process = self.net.popen(
            "head",
            words,
            env={name: value for name, value in environment.items() if value is not None},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield Job(process)
            finally:
                process.kill()

    def said(self, *hosts: Mapping[str, Any], **options: Any) -> str:
        """What a client says that cannot use the cluster."""
        with self.job(*hosts, **options) as job:
            return job.line()

    def ours(self) -> dict[str, list[psutil.Process]]:
        """Host -> processes of this package and their actors, without the client."""
        return {name: [*self._ours(name)] for name in ADDRESSES}

    def _ours(self, host: str) -> Iterator[psutil.Process]:
        for pid in self.net.processes(host):
            try:
                process = psutil.Process(pid)
                if any(PROGRAMS.fullmatch(word) for word in process.cmdline()):
                    yield process
            except psutil.NoSuchProcess:
                pass


@contextmanager
def ray_cluster(variables: Mapping[str, Mapping[str, str]]) -> Iterator[RayCluster]:
    """A head and two workers, with the labels `tier=NAME`; `variables`: host -> of its environment.

    All of them end with their hosts.
    """
    with ExitStack() as stack:
        folders = {name: stack.enter_context(tempfile.TemporaryDirectory(dir=SHORT)) for name in ADDRESSES}
        net = stack.enter_context(network(ADDRESSES))
        started = {name: _start(net, name, folders[name], variables.get(name, {})) for name in ["head"]}
        assert started["head"].wait(60) == 0
        started |= {name: _start(net, name, folders[name], variables.get(name, {})) for name in ("edge", "cloud")}
        assert [process.wait(60) for process in started.values()] == [0, 0, 0]
        yield RayCluster(net)


def _start(net: Network, name: str, folder: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    head = f"{ADDRESSES['head']}:{PORT}"
    role = ["--head", "--port", str(PORT), "--include-dashboard=false"] if name == "head" else ["--address", head]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--node-ip-address", net.address(name)]
    limits = ["--num-cpus", "1", "--object-store-memory", str(80 * 10**6), "--disable-usage-stats"]
    return net.popen(
        name,
        [*command, *limits, "--labels", f"tier={name}", "--temp-dir", folder],
        env={**os.environ, **TOKEN, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
