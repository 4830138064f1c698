"""Test hosts on this machine: their network, its failures, SSH, and that nothing of the hosts stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.running import ROOT, assert_gone
from tools.hosts import Network, holder, missing, namespaces, network, sshd
from transports.errors import SplitbenchError, UsageError

needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())
needs_ssh = pytest.mark.skipif(bool(missing(ssh=True)), reason=missing(ssh=True))

ADDRESSES = {"edge": "10.77.0.2", "cloud": "10.77.0.3"}
HOSTS = [word for name, address in ADDRESSES.items() for word in ("--host", f"{name}={address}")]
PYTHON = (sys.executable, "-I", "-S", "-c")
NO_PORT = 9
"""A port at which no server listens: the host itself answers, with a refusal."""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
except OSError as error:
    print(type(error).__name__)
"""
SINK = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    while connection.recv(1 << 20):
        pass
    connection.sendall(b"all")
"""
SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    begun = time.monotonic()
    connection.sendall(bytes(int(sys.argv[3])))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(3)
    print(time.monotonic() - begun)
"""
DAEMON = "(setsid sleep 1000 &) ; echo; exec sleep 1000"
"""A program of two processes: it starts a daemon, then prints a line."""
STUBBORN = f"trap '' TERM; {DAEMON}"
"""A program that ignores SIGTERM, as its daemon does."""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(ADDRESSES) as net:
        yield net


def answer(net: Network, port: int = NO_PORT, seconds: float = 10.0) -> str:
    """The error of a connection from edge to a port of cloud: ConnectionRefusedError if the host is reached."""
    command = [*PYTHON, CONNECT, net.address("cloud"), str(port), str(seconds)]
    done = net.run("edge", command, capture_output=True, text=True, check=True)
    return str(done.stdout.strip())


@contextmanager
def namespaces_of(pids: Iterable[int]) -> Iterator[set[str]]:
    """The network namespaces of the processes. Until the block is left, no new namespace gets one of their names."""
    with ExitStack() as stack:
        for pid in pids:
            stack.callback(os.close, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))
        yield {holder.namespace_of(pid) for pid in pids}


def start(net: Network, *argv: str) -> tuple[subprocess.Popen[str], str]:
    """Start a program on cloud. Returns the process, and the first line that it prints."""
    process = net.popen("cloud", argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def hosts(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.hosts", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@needs_hosts
@pytest.mark.parametrize("way", namespaces.WAYS, ids=" ".join)
def test_hosts_reach_each_other_as_root_and_in_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    monkeypatch.setattr(namespaces, "WAYS", (way,))
    if missing():
        pytest.skip(missing())
    with network(ADDRESSES) as net:
        assert answer(net) == "ConnectionRefusedError"


@needs_hosts
def test_networks_with_the_same_addresses_are_apart(net: Network) -> None:
    with network(ADDRESSES) as other:
        other.cut("cloud")
        assert answer(net) == "ConnectionRefusedError"


@needs_hosts
@pytest.mark.parametrize("limited", ADDRESSES)
def test_a_rate_bounds_what_a_link_carries_each_way(limited: str) -> None:
    nbytes, burst = 3_000_000, 2 * 32 * 1024
    with network(ADDRESSES, rates={limited: "50mbit"}) as net:
        sink, port = start(net, *PYTHON, SINK, net.address("cloud"))
        with sink:
            send = [*PYTHON, SEND, net.address("cloud"), port, str(nbytes)]
            seconds = float(net.run("edge", send, capture_output=True, text=True, check=True).stdout)
    assert seconds >= (nbytes - burst) * 8 / 50e6


@needs_hosts
def test_a_cut_cable_carries_nothing_until_it_is_mended(net: Network) -> None:
    net.cut("cloud")
    assert answer(net, seconds=0.3) in ("TimeoutError", "OSError")
    net.mend("cloud")
    assert answer(net) == "ConnectionRefusedError"


@needs_hosts
def test_a_blocked_port_is_silent_and_the_others_are_not(net: Network) -> None:
    net.block("cloud", 4000)
    net.block("cloud", 4000)
    assert answer(net, 4000, seconds=0.3) == "TimeoutError"
    assert answer(net, 4001) == "ConnectionRefusedError"


@needs_hosts
def test_a_host_without_power_has_no_process_and_may_get_it_back(net: Network) -> None:
    process, _ = start(net, "sh", "-c", STUBBORN)
    with process:
        assert process.pid in net.processes("cloud")
        assert process.pid not in net.processes("edge")
        net.power_off("cloud")
        assert process.wait() == -signal.SIGKILL
    assert not net.processes("cloud")
    assert answer(net, seconds=0.3) in ("TimeoutError", "OSError")
    net.mend("cloud")
    assert answer(net) == "ConnectionRefusedError"


@needs_hosts
def test_leaving_ends_daemons_even_if_the_holder_was_killed() -> None:
    with ExitStack() as stack:
        with network(ADDRESSES) as net:
            process, _ = start(net, "sh", "-c", STUBBORN)
            assert len(net.processes("cloud")) == 2
            holders = [space.holder for space in (net.hub, *net.spaces.values())]
            spaces = stack.enter_context(namespaces_of([keeper.pid for keeper in holders]))
            net.spaces["cloud"].holder.kill()
        with process:
            assert not any(holder.processes(space) for space in spaces)


@needs_hosts
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_nothing_stays_of_a_program_that_is_ended(number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-m", "tools.hosts", *HOSTS, "--", "sh", "-c", DAEMON]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program,
        ExitStack() as stack,
    ):
        assert program.stdout is not None
        program.stdout.readline()
        children = [child.pid for child in psutil.Process(program.pid).children()]
        spaces = stack.enter_context(namespaces_of(children))
        running = [psutil.Process(pid) for space in spaces for pid in holder.processes(space)]
        assert len(spaces) == 3
        assert len(running) == 5, "three holders, the command, its daemon"
        program.send_signal(number)
        assert program.wait() == status
        assert_gone(running)
        assert not any(holder.processes(space) for space in spaces)


@needs_ssh
def test_the_command_finds_hosts_and_servers_in_its_environment() -> None:
    script = "echo $SPLITBENCH_HOSTS; ssh -F $SPLITBENCH_SSH_CONFIG cloud 'echo $SSH_CONNECTION'; exit 7"
    done = hosts(*HOSTS, "--rate", "50mbit", "--rate", "edge=1gbit", "--sshd", "cloud,edge", "--", "sh", "-c", script)
    assert done.stdout.splitlines()[0] == "edge=10.77.0.2,cloud=10.77.0.3"
    client, _, server, _ = done.stdout.splitlines()[1].split()
    assert (client, server) == (ADDRESSES["edge"], ADDRESSES["cloud"])
    assert done.returncode == 7


@needs_ssh
def test_a_server_without_power_answers_no_more(net: Network, tmp_path: Path) -> None:
    with sshd(net, ["cloud"], tmp_path / "a folder") as config:
        login = ["ssh", "-F", str(config), "-o", "ConnectTimeout=1", "cloud", "true"]
        net.run("edge", login, check=True)
        net.power_off("cloud")
        assert net.run("edge", login, capture_output=True).returncode == 255
    net.mend("cloud")


@needs_ssh
def test_a_server_that_does_not_start_says_why(net: Network, tmp_path: Path) -> None:
    with (
        sshd(net, ["cloud"], tmp_path / "first"),
        pytest.raises(SplitbenchError, match=r"sshd on cloud .* Address already in use"),
        sshd(net, ["cloud"], tmp_path / "second"),
    ):
        pass


@needs_hosts
def test_the_exit_status_tells_of_a_signal_as_a_shell_does() -> None:
    assert hosts(*HOSTS, "--in", "cloud", "--", "sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


BAD = [
    (["--", "true"], "no host; give at least one"),
    ([*HOSTS], "no command; write it after --"),
    ([*HOSTS, "--host", "edge=10.77.0.4", "--", "true"], "two values for host edge"),
    ([*HOSTS, "--host", "far=10.77.0.3", "--", "true"], "hosts cloud and far both have the address 10.77.0.3"),
    ([*HOSTS, "--host", "far=10.78.0.3", "--", "true"], "10.78.0.3 is no host's address in 10.77.0.0/24"),
    ([*HOSTS, "--host", "far=10.77.0.255", "--", "true"], "10.77.0.255 is no host's address in 10.77.0.0/24"),
    (["--host", "edge=here", "--", "true"], "'here' is no IPv4 address; give one such as 10.77.0.2"),
    (["--host", "10.77.0.2", "--", "true"], "'10.77.0.2' is not NAME=VALUE"),
    (["--host", "-e=10.77.0.2", "--", "true"], "expected one argument"),
    (["--host", "an edge=10.77.0.2", "--", "true"], "'an edge' is no name of a host"),
    ([*HOSTS, "--rate", "egde=50mbit", "--", "true"], "--rate: no host 'egde'; did you mean 'edge'?"),
    ([*HOSTS, "--rate", "fast", "--", "true"], "'fast' is no rate"),
    ([*HOSTS, "--rate", "0mbit", "--", "true"], "'0mbit' is no rate"),
    ([*HOSTS, "--rate", "1mbit", "--rate", "2mbit", "--", "true"], "given twice for all hosts"),
    ([*HOSTS, "--delay", "5", "--", "true"], "'5' is no delay; give the time one way"),
    ([*HOSTS, "--delay", "sea=5ms", "--", "true"], "--delay: no host 'sea'"),
    ([*HOSTS, "--in", "far", "--", "true"], "--in: no host 'far'"),
    ([*HOSTS, "--sshd", "far", "--", "true"], "--sshd: no host 'far'"),
    ([*HOSTS, "--sshd", "edge", "--sshd", "cloud", "--", "true"], "write several values with a comma"),
    ([*HOSTS, "--speed", "1", "--", "true"], "no flag '--speed'"),
]


@pytest.mark.parametrize(("words", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_is_refused_in_one_line(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    from tools.hosts.__main__ import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert main(words) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    line, *more = capfd.readouterr().err.splitlines()
    assert text in line
    assert not more


@needs_hosts
def test_the_api_refuses_what_the_command_line_does(net: Network) -> None:
    with pytest.raises(UsageError, match="a rate for 'far', which is no host"), network(ADDRESSES, {"far": "1mbit"}):
        pass
    for call in (net.address, net.processes, net.cut, net.mend, net.power_off):
        with pytest.raises(UsageError, match="no host 'clout'; did you mean 'cloud'"):
            call("clout")


def test_a_machine_that_cannot_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unshare", "nsenter", "ip"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(namespaces, "PATH", str(tmp_path))
    assert missing() == "there is no program 'tc' here; run apt-get install -y iproute2"
    (tmp_path / "ip").rename(tmp_path / "tc")
    assert "'ip'" in missing()
    os.link(tmp_path / "tc", tmp_path / "ip")
    assert missing().startswith("this process may not make network namespaces; run it as root")
    with pytest.raises(UsageError, match="may not make network namespaces"), network(ADDRESSES):
        pass


PING = "import socket, sys, time; begun = time.monotonic(); socket.socket().connect_ex((sys.argv[1], 9)); "
PING += "print(time.monotonic() - begun)"


@needs_hosts
def test_a_delay_is_the_kernels_or_refused_with_what_works_instead() -> None:
    """Not every kernel has netem. A refusal of the other host takes a round trip over two links."""
    command = [sys.executable, "-m", "tools.hosts", *HOSTS, "--delay", "40ms", "--", *PYTHON, PING, ADDRESSES["cloud"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        (line,) = done.stderr.splitlines()
        assert "netem" in line
        assert "splitbench run --link" in line
    else:
        assert float(done.stdout) >= 0.16
