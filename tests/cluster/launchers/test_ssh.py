"""The launcher over ssh, with real servers: contents that stay on a host, versions, and clean ends."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.config import ProbeConfig
from cluster.errors import ClusterDown
from cluster.hosts import Host
from cluster.launchers import Order
from cluster.launchers import ssh as over_ssh
from cluster.launchers.piped import PipedLauncher
from tests.lab import ADDRESSES, SERVERS, Lab, before_tensorflow, lab, needs_ssh
from tests.running import ROOT
from transports.errors import UsageError

SILENCE = 2.0
"""Seconds after which a lost host is noticed in these tests."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    with lab() as made:
        yield made


def probe(name: str, host: str, **fields: object) -> ProbeConfig:
    return ProbeConfig(bind=ADDRESSES[host], insecure=True, transports=("tcp",), **fields)  # type: ignore[arg-type]


def stored(hosts: Lab, file: Path) -> bytes:
    """Start a process with a file whose content is "kept"; the file that it has on its host."""
    launcher = PipedLauncher(hosts.ways())
    digest = hashlib.sha256(b"kept").hexdigest()

    def body() -> bytes:
        order = Order("probe", probe("probe", "edge", files={"a/b": digest}), {digest: file}, "edge")
        launcher.start(order)
        launcher.addresses("probe")
        return Path(launcher.hosts["edge"].folder, "files", "probe", "a", "b").read_bytes()

    return before_tensorflow(launcher, body)


@needs_ssh
def test_contents_stay_on_a_host_and_are_sent_again_only_if_damaged(hosts: Lab, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError):
        stored(hosts, nowhere)
    (file := tmp_path / "file").write_bytes(b"kept")
    assert stored(hosts, file) == b"kept"
    assert stored(hosts, nowhere) == b"kept"
    (cached,) = hosts.cache.iterdir()
    cached.write_bytes(b"kepT")
    with pytest.raises(FileNotFoundError):
        stored(hosts, nowhere)
    assert not cached.exists()
    assert stored(hosts, file) == b"kept"
    assert cached.read_bytes() == b"kept"


@needs_ssh
def test_a_host_tells_its_clock_and_keeps_secrets_from_other_users(hosts: Lab) -> None:
    launcher = PipedLauncher(hosts.ways())

    def body() -> None:
        for host in SERVERS:
            clock = launcher.clock(host)
            assert abs(clock.offset) <= clock.uncertainty < 1
            path = Path(launcher.secret(host, "key", b"secret"))
            launcher.clock(host)  # orders are carried out in sequence
            assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
            assert path.parent.stat().st_mode & 0o777 == 0o700
        assert launcher.hosts["edge"].folder != launcher.hosts["cloud"].folder

    before_tensorflow(launcher, body)


CLIENT = """
import sys
from cluster.config import ProbeConfig
from cluster.errors import ClusterDown
from cluster.hosts import Host
from cluster.launchers import Order, ssh
from cluster.launchers.piped import PipedLauncher

python, command, silence, *hosts = sys.argv[1:]
ways, addresses = {}, {}
for text in hosts:
    name, _, addresses[name] = text.partition("=")
    ways[name] = ssh.way(Host(name=name, python=python), command, float(silence))
launcher = PipedLauncher(ways)

def act():
    for host, address in addresses.items():
        config = ProbeConfig(bind=address, insecure=True, transports=("tcp",))
        launcher.start(Order(f"probe-{host}", config, host=host))
    for host in addresses:
        launcher.addresses(f"probe-{host}")
    print("ready", flush=True)
    if sys.stdin.readline():
        try:
            launcher.check(60)
        except ClusterDown as error:
            print(error, flush=True)
    sys.exit()

launcher.check_first = act
with launcher:
    pass
"""


def named(processes: list[psutil.Process], name: str) -> psutil.Process:
    return next(process for process in processes if process.name() == name)


def fork_server(hosts: Lab) -> psutil.Process:
    """That of edge: its probe is forked from it, and has another name."""
    return psutil.Process(named(hosts.strangers("edge"), "probe-edge").ppid())


def ssh_of(client: subprocess.Popen[str]) -> psutil.Process:
    return next(child for child in psutil.Process(client.pid).children() if "edge" in child.cmdline())


def cut_and_kill(hosts: Lab, client: subprocess.Popen[str]) -> None:
    hosts.net.cut("edge")
    client.kill()


ENDS: dict[str, tuple[Callable[[Lab, subprocess.Popen[str]], object], str]] = {
    "client": (lambda hosts, client: client.kill(), ""),
    "ssh": (lambda hosts, client: ssh_of(client).kill(), "host edge: its launcher was ended by SIGKILL"),
    "fork server": (lambda hosts, client: fork_server(hosts).kill(), "host edge: its launcher ended with status 255"),
    "process": (
        lambda hosts, client: named(hosts.strangers("edge"), "probe-edge").kill(),
        "probe-edge was ended by SIGKILL",
    ),
    "cable": (lambda hosts, client: hosts.net.cut("edge"), "host edge: its launcher ended with status 255"),
    "client and cable": (cut_and_kill, ""),
}
"""What is lost -> how, and what the client says, if it is still there."""


@needs_ssh
@pytest.mark.parametrize("lost", ENDS)
def test_nothing_is_left_whatever_is_lost(lost: str, hosts: Lab) -> None:
    """Neither a process, a port, nor a folder, although the hosts have not loaded TensorFlow yet."""
    lose, text = ENDS[lost]
    addresses = [f"{name}={ADDRESSES[name]}" for name in SERVERS]
    ssh = f"ssh -F {shlex.quote(str(hosts.config))}"
    command = [*hosts.client, sys.executable, "-c", CLIENT, hosts.python, ssh, str(SILENCE), *addresses]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        programs = psutil.Process(client.pid).children()
        processes = hosts.remote()
        assert {process.name() for process in processes} >= {"probe-edge", "probe-cloud"}
        stack.callback(hosts.net.mend, "edge")
        lose(hosts, client)
        if text:
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline().startswith(text)
        client.wait(60)
        hosts.assert_nothing_left([*processes, *programs])


@needs_ssh
def test_a_host_without_power_is_lost_to_its_launcher() -> None:
    with lab() as hosts:
        launcher = PipedLauncher(hosts.ways(SILENCE))

        def body() -> None:
            launcher.start(Order("probe", probe("probe", "cloud"), host="cloud"))
            launcher.addresses("probe")
            hosts.net.power_off("cloud")
            with pytest.raises(ClusterDown, match=r"host cloud: its launcher ended with status 255"):
                launcher.check(60)
            assert launcher.running() == frozenset()

        before_tensorflow(launcher, body)
        assert not hosts.net.processes("cloud")


STRANGE = """echo "events of the fork server:"; echo '{"type": "Hello", "place": "/"}'; exec cat"""


@needs_ssh
def test_a_host_with_another_protocol_is_named_at_once(hosts: Lab) -> None:
    """As with --versions any, if the other version introduces itself otherwise."""
    host = Host(name="edge", python=hosts.script("strange", STRANGE))
    with (
        pytest.raises(ClusterDown, match=r"host edge: its launcher says what is no event .*install the same version"),
        PipedLauncher({"edge": over_ssh.way(host, hosts.ssh)}) as launcher,
    ):
        launcher.clock("edge")


REMEDIES = [
    (255, "x@host: Permission denied (publickey).", "let ssh log in without a question"),
    (255, "Can't open user config file /x: No such file or directory", "try `ssh` to it by hand"),
    (255, "", "the connection was lost"),
    (126, "bash: line 1: /opt/python: Permission denied", "give the path of its Python"),
    (127, "sh: 1: exec: python3: not found", "give the path of its Python"),
    (1, "/usr/bin/python3: No module named cluster", "install this package there"),
]


@pytest.mark.parametrize(("status", "log", "todo"), REMEDIES)
def test_what_to_do_depends_on_who_failed(status: int, log: str, todo: str) -> None:
    assert todo in over_ssh.remedy(status, log)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("", "exec python3 -P -m"),
        ("/opt/a b/python", "exec '/opt/a b/python' -P -m"),
        ("~/a b/python", "exec ~/'a b/python' -P -m"),
        ("python; rm x", "exec 'python; rm x' -P -m"),
    ],
)
def test_the_path_of_python_is_one_word_for_a_shell(python: str, words: str) -> None:
    assert over_ssh.way(Host(name="pi", python=python), "sh").command[-1].startswith(words)


@pytest.mark.parametrize(("ssh", "text"), [("nossh", "no such program"), ("ssh '", "No closing"), ("", "no such")])
def test_an_ssh_that_cannot_be_run_is_refused(ssh: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        over_ssh.way(Host(name="pi"), ssh)


def test_a_name_becomes_the_address_that_it_has_here(tmp_path: Path) -> None:
    """On the host itself the same name may be 127.0.1.1."""
    (config := tmp_path / "config").write_text("Host pi\n  HostName localhost\nHost far\n  HostName far.invalid\n")
    ssh = f"ssh -F {config}"
    assert over_ssh.address(Host(name="pi"), ssh) in ("127.0.0.1", "::1")
    assert over_ssh.address(Host(name="other", ssh="me@pi"), ssh) in ("127.0.0.1", "::1")
    assert over_ssh.address(Host(name="far"), ssh) == "far.invalid"
