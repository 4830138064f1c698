"""Hosts that cannot be used are refused before anything is measured, in one line that names the host."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import run
from tests.lab import ADDRESSES, CLIENT, NOWHERE, Lab, lab, needs_ssh
from tests.running import Run

TWO = ["--transport", "grpc", "--mode", "submodel", "--servers", "2"]


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a run that is refused."""
    assert run.main([*words, "--out", str(out)]) == 2
    assert not out.exists()
    return capsys.readouterr().err.splitlines()[-1]


GIVEN: dict[str, tuple[list[str], str]] = {
    "no hosts": ([], "error: --cluster ssh: on which hosts? Give --hosts FILE"),
    "no file": (["--hosts", "nowhere.toml"], "--hosts: cannot read nowhere.toml: No such file"),
    "a short form": (["--hosts", "a:x"], "'a:x' is not NAME:SERVERS"),
    "two of one name": (["--hosts", "a:1,a:1"], "two hosts are called a"),
    "too few servers": (["--hosts", "a:1"], "server 1 is on no host: the hosts hold 1 servers and a cell has 2"),
    "another host": (["--hosts", "edge:1,b:1", "--on", "egde"], "--on egde: no host 'egde'; did you mean 'edge'"),
    "too small hosts": (["--hosts", "a:1,b:1", "--on", "a"], "--on a: these hosts hold 1 servers, and a cell has 2"),
    "one host twice": (["--hosts", "a:1,b:1", "--on", "a+a"], "--on a+a: these hosts hold 1 servers"),
    "unix": (["--hosts", "a,b", "--transport", "unix"], "--transport unix: both ends have to be on one machine"),
    "shm": (["--hosts", "a,b", "--transport", "shm"], "--transport shm: both ends have to be on one machine"),
    "a runtime": (["--hosts", "a,b", "--transport", "sockets"], "--transport sockets: a runtime runs on one machine"),
    "pinning": (["--hosts", "a,b", "--pin", "on"], "--pin: it concerns this machine alone"),
    "a port": (["--hosts", "a,b", "--cluster", "ssh:1"], "--cluster ssh:1: no such cluster"),
    "another cluster": (["--hosts", "a,b", "--cluster", "shs"], "--cluster shs: no such cluster; did you mean 'ssh'"),
    "no ssh": (["--hosts", "a,b", "--ssh", "nossh"], "--ssh 'nossh': no such program"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_hosts_that_do_not_fit_are_refused(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, text = GIVEN[case]
    cluster = [] if "--cluster" in words else ["--cluster", "ssh"]
    common = TWO[2:] if "--transport" in words else TWO
    assert text in refused([*cluster, *common, *words, "--model", str(model)], tmp_path / "out", capsys)


TABLES = {
    "no TOML": ("[[host", "is no TOML"),
    "an unknown key": ('[[host]]\nname = "a"\nsevrers = [1]', "unknown field `sevrers` - at `$.host[0]`"),
    "a wrong type": ('[[host]]\nname = "a"\nservers = "1"', "Expected `array`, got `str` - at `$.host[0].servers`"),
    "a wrong limit": ('[[host]]\nname = "a"\ncpu = 0.001', "cpu = 0.001: give at least 0.01 of a core"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_file_of_hosts_that_cannot_be_used_is_refused(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, hint = TABLES[case]
    (path := tmp_path / "hosts.toml").write_text(text)
    words = ["--cluster", "ssh", "--hosts", str(path), *TWO, "--model", str(model)]
    assert hint in refused(words, tmp_path / "out", capsys)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    with lab() as made:
        yield made


def other_config(hosts: Lab, old: str, new: str) -> str:
    """The command of an ssh client whose configuration has `new` in place of `old`."""
    (path := hosts.folder / "other_config").write_text(hosts.config.read_text().replace(old, new))
    return shlex.join(hosts.net.command(CLIENT, ["ssh", "-F", str(path)]))


def other_key(hosts: Lab) -> str:
    key = hosts.folder / "other.key"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return other_config(hosts, "user.key", "other.key")


def bare_python(hosts: Lab) -> str:
    """A Python without site-packages."""
    return hosts.script("bare", f'cd /; exec {shlex.quote(hosts.python)} -I -S "$@"')


Fields = Callable[[Lab], dict[str, Any]]
CLOUD: dict[str, tuple[Fields, str]] = {
    "no host": (lambda hosts: {"ssh": NOWHERE}, "No route to host; is it switched on"),
    "no name": (lambda hosts: {"ssh": "nowhere.invalid"}, "Could not resolve hostname nowhere.invalid"),
    "no server": (lambda hosts: {"ssh": ADDRESSES[CLIENT]}, "Connection refused; start its sshd"),
    "no Python": (lambda hosts: {"python": "/nowhere/python"}, "give the path of its Python as `python` of the host"),
    "no program": (lambda hosts: {"python": "/etc"}, "give the path of its Python as `python` of the host"),
    "no package": (lambda hosts: {"python": bare_python(hosts)}, "install this package there, in the Python that"),
    "another version": (
        lambda hosts: {"python": hosts.other_version()},
        "has splitbench 9.9 (here 0.1.0); install the same there, or measure and record it: --versions any",
    ),
    "another's address": (
        lambda hosts: {"address": ADDRESSES["edge"]},
        "Cannot assign requested address",
    ),
    "a taken port": (lambda hosts: {"port": 2222}, "give an `address` or `bind` that the host has, and a free `port`"),
    "a core": (lambda hosts: {"cores": [9999]}, "a process with its limits ended with status 2: error: cores: "),
}
"""What is wrong with the host cloud -> the fields of its table, and a part of the error line."""


@needs_ssh
@pytest.mark.parametrize("case", CLOUD)
def test_a_host_that_cannot_be_used_is_named_with_what_to_do(
    case: str, hosts: Lab, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, text = CLOUD[case]
    flags = hosts.flags(hosts.table("edge", servers=[0]), hosts.table("cloud", servers=[1], **fields(hosts)))
    flags[-1] = hosts.ssh
    line = refused([*flags, *TWO, "--host", ADDRESSES[CLIENT], "--model", str(model)], tmp_path / "out", capsys)
    assert line.startswith("error: host cloud")
    assert text in line
    hosts.assert_nothing_left([])


SSH: dict[str, tuple[Callable[[Lab], str], str]] = {
    "another key": (other_key, "Permission denied (publickey).; let ssh log in without a question"),
    "an unknown host": (
        lambda hosts: other_config(hosts, "known_hosts", "no_known_hosts"),
        "Host key verification failed.; log in by hand once, and accept the key of the host only if you know it",
    ),
    "no configuration": (
        lambda hosts: shlex.join(hosts.net.command(CLIENT, ["ssh", "-F", "/nowhere"])),
        "Can't open user config file /nowhere: No such file or directory; the connection",
    ),
}


@needs_ssh
@pytest.mark.parametrize("case", SSH)
def test_an_ssh_that_does_not_log_in_is_named_with_what_to_do(
    case: str, hosts: Lab, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, text = SSH[case]
    flags = hosts.flags()
    flags[-1] = make(hosts)
    line = refused([*flags, *TWO, "--host", ADDRESSES[CLIENT], "--model", str(model)], tmp_path / "out", capsys)
    assert line.startswith("error: host edge: its launcher ended with status 255: ")
    assert text in line


@needs_ssh
def test_a_port_that_a_firewall_swallows_is_found_before_a_run(hosts: Lab, model: Path, tmp_path: Path) -> None:
    """The firewall blocks the second of the ports that the host's processes would take."""
    with contextlib.ExitStack() as stack:
        hosts.net.block("cloud", 7001)
        flags = hosts.flags(hosts.table("edge", servers=[0]), hosts.table("cloud", servers=[1], port=7000))
        words = (*flags, *TWO[2:], "--transport", "grpc,tcp", "--model", model, "--out", tmp_path / "out")
        going = stack.enter_context(Run(*words, within=hosts.client))
        status, last = going.finish()
    assert status == 2
    assert last.startswith("error: this machine does not reach host cloud at 10.77.0.3:7001 within 5 s")
    assert "let the firewall between them pass its ports" in last
    assert not (tmp_path / "out").exists()


@needs_ssh
def test_a_host_without_an_address_is_named(hosts: Lab, model: Path, tmp_path: Path) -> None:
    flags = hosts.flags({"name": "pi", "ssh": "nowhere.invalid", "servers": [0, 1]})
    with Run(*flags, *TWO, "--model", model, "--out", tmp_path / "out", within=hosts.client) as going:
        status, last = going.finish()
    assert status == 2
    assert last.startswith("error: host pi: 'nowhere.invalid' cannot be reached from here")
