"""Network namespaces that are joined by a bridge, which lies in a namespace of its own.

Rules:
  - Namespaces have no names. A holder process keeps each namespace (see `tools.hosts.holder`), and ends all its
    processes when the holder's standard input closes. So nothing stays when the process that built them is killed.
  - Host number i has the interface `eth0`; the other end of its cable is `port<i>` of the bridge.
  - A user that may not make network namespaces makes them within a user namespace, whose root is this user.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from partitioning.options import hint
from tools.hosts import holder
from transports.errors import SplitbenchError, UsageError

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
"""Folders in which programs are looked for: on Debian, only root's PATH has the folders of `ip`, `tc` and `sshd`."""
PACKAGES = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2"}
SSH_PACKAGES = {"ssh": "openssh-client", "ssh-keygen": "openssh-client", "sshd": "openssh-server"}
"""Program -> the Debian package that has it."""
WAYS = (("--net",), ("--user", "--map-root-user", "--net"))
"""The flags of `unshare` that make a network namespace: as root, and as another user."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
RATE = re.compile(r"\d+(\.\d+)?[kmg]?bit")
TBF = "tbf rate {} burst 32kb latency 400ms"
"""A token bucket; `latency` is how long a packet waits at most before it is dropped."""
DELAY = re.compile(r"\d+(\.\d+)?(us|ms|s)")
WAITING = 10_000
"""Packets that netem holds: at most 120 Mbit at a time."""


@dataclass(frozen=True)
class Space:
    """A network namespace and the process that keeps it."""

    holder: subprocess.Popen[str]
    name: str
    """The name that `holder.namespace_of` returns."""
    handle: int
    """A descriptor of the namespace. While it is open, no other namespace gets this name."""
    in_user: bool
    """Whether the namespace belongs to a user namespace."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the namespace."""
        user = ("--user", "--preserve-credentials") if self.in_user else ()
        return [program("nsenter"), *user, "--net", "--target", str(self.holder.pid), "--", *argv]

    def configure(self, tool: str, lines: Sequence[str]) -> None:
        """Pass `lines` to `ip` or `tc`. Raises `SplitbenchError` with the tool's message if a line fails."""
        done = subprocess.run(
            self.command([program(tool), "-batch", "-"]), input="\n".join(lines), capture_output=True, text=True
        )
        if done.returncode:
            raise SplitbenchError(f"{tool} failed: {' '.join(done.stderr.split())} (in: {'; '.join(lines)})")


@dataclass(frozen=True)
class Network:
    """Hosts on a bridge. Methods raise `UsageError` for a host that does not exist."""

    addresses: Mapping[str, str]
    """Host -> its IPv4 address."""
    hub: Space
    """The namespace of the bridge."""
    spaces: Mapping[str, Space]

    def address(self, name: str) -> str:
        """The IPv4 address of a host."""
        self._space(name)
        return self.addresses[name]

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on a host. `nsenter` replaces itself by `argv`, so both are one process."""
        return self._space(name).command(argv)

    def run(self, name: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on a host, with the options of `subprocess.run`."""
        return subprocess.run(self.command(name, argv), **options)

    def popen(self, name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host, with the options of `subprocess.Popen`."""
        return subprocess.Popen(self.command(name, argv), **options)

    def processes(self, name: str) -> frozenset[int]:
        """The ids of a host's processes, without the one that keeps its namespace."""
        space = self._space(name)
        return holder.processes(space.name) - {space.holder.pid}

    def cut(self, name: str) -> None:
        """Pull a host's cable: packets are lost both ways, and the host keeps its address and connections."""
        self.hub.configure("ip", [f"link set {self._port(name)} down"])

    def mend(self, name: str) -> None:
        """Put a host's cable back; without effect if it is in place."""
        self.hub.configure("ip", [f"link set {self._port(name)} up"])

    def block(self, name: str, port: int) -> None:
        """Drop the packets that arrive for a TCP port of a host, without an answer, as a firewall does.

        This affects open connections too, but not connections of the host to itself.
        """
        target = f"dst {self.address(name)}/32 proto tcp dport {port}"
        # A policy of IPsec: every distribution's kernel supports these policies, and iproute2 is enough to set one.
        self._space(name).configure("ip", [f"xfrm policy update dir in src 0.0.0.0/0 {target} action block"])

    def power_off(self, name: str) -> None:
        """Cut a host's cable and kill its processes (SIGKILL). After `mend`, an empty host has the same address.

        Raises `TimeoutError` if a process does not end.
        """
        self.cut(name)
        space = self._space(name)
        holder.end(space.name, {space.holder.pid}, grace=0)

    def _space(self, name: str) -> Space:
        if name not in self.spaces:
            raise UsageError(f"no host {name!r}{hint(name, self.spaces)}")
        return self.spaces[name]

    def _port(self, name: str) -> str:
        self._space(name)
        return f"port{[*self.spaces].index(name)}"


@contextmanager
def network(
    addresses: Mapping[str, str], rates: Mapping[str, str] | None = None, delays: Mapping[str, str] | None = None
) -> Iterator[Network]:
    """Hosts with these IPv4 addresses, all of one /24. On exit all processes on the hosts are ended.

    `rates`: host -> bandwidth of its link in each direction, as `50mbit` (bits per second, in `tc`'s notation).
    `delays`: host -> one-way delay of its link, as `10ms`, if the kernel has netem. Other links have no limit. Raises
    `UsageError` for values that cannot be used or if `missing()`, and `SplitbenchError` with the message of `ip` or
    `tc` if the kernel refuses something.
    """
    rates, delays = rates or {}, delays or {}
    _check(addresses, rates, delays)
    if reason := missing():
        raise UsageError(reason)
    spaces: list[Space] = []
    try:
        flags = _way()
        for _ in range(1 + len(addresses)):
            spaces.append(_space(flags, spaces))
        net = Network(dict(addresses), spaces[0], dict(zip(addresses, spaces[1:], strict=True)))
        _join(net)
        for name in {**rates, **delays}:
            _shape(net, name, rates.get(name), delays.get(name))
        yield net
    finally:
        _leave(spaces)


def missing(ssh: bool = False) -> str:
    """Why this machine cannot build hosts (with `ssh`: hosts with an SSH server), and what to do; empty if it can."""
    for name, package in {**PACKAGES, **(SSH_PACKAGES if ssh else {})}.items():
        if not shutil.which(name, path=PATH):
            return f"there is no program {name!r} here; run apt-get install -y {package}"
    way = _way()
    if not way:
        return "this process may not make network namespaces; run it as root, or allow user namespaces"
    if ssh and "--user" in way and not os.geteuid():
        return "root without CAP_SYS_ADMIN cannot run sshd in a user namespace; run this as another user"
    return ""


def program(name: str) -> str:
    """The path of a program, or its name if there is none."""
    return shutil.which(name, path=PATH) or name


def _way() -> tuple[str, ...]:
    """The flags of `unshare` that work for this process; empty if none do."""
    for flags in WAYS:
        if not subprocess.run([program("unshare"), *flags, "true"], capture_output=True).returncode:
            return flags
    return ()


def _space(flags: Sequence[str], others: Sequence[Space]) -> Space:
    """A new namespace, which belongs to the same user namespace as the others."""
    in_user = "--user" in flags
    inside = [program("unshare"), *(("--net",) if others else flags), sys.executable, "-I", "-S", holder.__file__]
    # A session of its own: Ctrl-C in a terminal must reach only the building process, which then ends the hosts.
    process = subprocess.Popen(
        others[0].command(inside) if others and in_user else inside,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        if process.stdout.readline() != "ready\n":
            process.stdin.close()
            raise SplitbenchError(f"no network namespace: {inside[0]} ended with status {process.wait()}")
    handle = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
    return Space(process, holder.namespace_of(process.pid), handle, in_user)


def _join(net: Network) -> None:
    """Plug each host into the bridge, and give it its address."""
    net.hub.configure("ip", ["link add bridge type bridge", "link set bridge up"])
    for number, (name, space) in enumerate(net.spaces.items()):
        port = f"port{number}"
        cable = f"link add {port} type veth peer name eth0 netns {space.holder.pid}"
        net.hub.configure("ip", [cable, f"link set {port} master bridge up"])
        address = f"address add {net.addresses[name]}/24 broadcast + dev eth0"
        space.configure("ip", ["link set lo up", address, "link set eth0 up"])


def _shape(net: Network, name: str, rate: str | None, delay: str | None) -> None:
    """Give a host's link its rate and its delay, in both directions. Raises `UsageError` for a delay without netem."""
    place = "root handle 1:"
    for end, device in ((net.spaces[name], "eth0"), (net.hub, f"port{[*net.spaces].index(name)}")):
        if rate:
            end.configure("tc", [f"qdisc add dev {device} {place} {TBF.format(rate)}"])
        if delay:
            try:
                at = "parent 1:1 handle 2:" if rate else place
                end.configure("tc", [f"qdisc add dev {device} {at} netem delay {delay} limit {WAITING}"])
            except SplitbenchError as error:
                raise UsageError(
                    f"host {name}: delay {delay}: {error}; a kernel without sch_netem delays nothing: emulate the link "
                    "with splitbench run --link"
                ) from error


def _leave(spaces: Sequence[Space]) -> None:
    """End all processes of the namespaces at once, then the namespaces."""
    for space in spaces:
        assert space.holder.stdin is not None
        space.holder.stdin.close()
    with ExitStack() as stack:
        for space in spaces:
            stack.callback(os.close, space.handle)
            stack.callback(holder.end, space.name)  # without effect unless the holder itself was killed
            stack.callback(space.holder.wait)


def _check(addresses: Mapping[str, str], rates: Mapping[str, str], delays: Mapping[str, str]) -> None:
    """Raise `UsageError` for values that cannot be used."""
    if not addresses:
        raise UsageError("no host; give at least one, as edge=10.77.0.2")
    owners: dict[ipaddress.IPv4Address, str] = {}
    first = None
    for name, text in addresses.items():
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a host; use letters, digits, dots and dashes")
        try:
            link = ipaddress.IPv4Interface(f"{text}/24")
        except ValueError:
            raise UsageError(f"host {name}: {text!r} is no IPv4 address; give one such as 10.77.0.2") from None
        first = first or link.network
        if link.network != first or link.ip in (first.network_address, first.broadcast_address):
            raise UsageError(f"host {name}: {text} is no host's address in {first}; all hosts are in one /24")
        if link.ip in owners:
            raise UsageError(f"hosts {owners[link.ip]} and {name} both have the address {text}; give each its own")
        owners[link.ip] = name
    for name, rate in rates.items():
        if name not in addresses:
            raise UsageError(f"a rate for {name!r}, which is no host{hint(name, addresses)}")
        if not RATE.fullmatch(rate) or not float(rate.rstrip("kmgbit")):
            raise UsageError(f"host {name}: {rate!r} is no rate; give bits per second, such as 50mbit")
    for name, delay in delays.items():
        if name not in addresses:
            raise UsageError(f"a delay for {name!r}, which is no host{hint(name, addresses)}")
        if not DELAY.fullmatch(delay):
            raise UsageError(f"host {name}: {delay!r} is no delay; give the time one way, such as 10ms")
