"""`python -m tools.hosts --host NAME=ADDRESS ... -- COMMAND ...` makes hosts, and runs a command on one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster import scratch
from cluster.hosts import SHAPED
from experiments.cli import exit_status
from partitioning.options import Once, Parser, hint
from tools.hosts.namespaces import network
from tools.hosts.ssh import sshd
from transports.errors import UsageError

PROG = "python -m tools.hosts"
USAGE = f"{PROG} --host NAME=ADDRESS ... [flags] -- COMMAND ..."
DESCRIPTION = """\
Run a command on hosts of its own: network namespaces on a bridge, which end with it.
The hosts share this machine's files; each has its own address, ports and link."""
EPILOG = f"""\
COMMAND finds in its environment:
  SPLITBENCH_HOSTS       edge=10.77.0.2,cloud=10.77.0.3
  SPLITBENCH_SHAPED      with --rate or --delay: what the kernel imposes, which a report then says
  SPLITBENCH_SSH_CONFIG  with --sshd: an ssh_config in which each host has its name

Its exit status is COMMAND's: 128 + N if signal N ended it; 2 if a flag cannot be used or this machine cannot make
hosts; 130 for Ctrl-C. When COMMAND ends, all processes of all hosts are ended (SIGTERM, 2 seconds, SIGKILL).

examples:
  # a shell on the first of two hosts
  {PROG} --host edge=10.77.0.2 --host cloud=10.77.0.3 -- bash

  # all links carry 50 Mbit/s each way; or only that of edge
  {PROG} --host edge=10.77.0.2 --host cloud=10.77.0.3 --rate 50mbit -- ping -c 3 10.77.0.3
  {PROG} --host edge=10.77.0.2 --host cloud=10.77.0.3 --rate edge=50mbit -- ping -c 3 10.77.0.3

  # a command on the other host, over ssh
  {PROG} --host edge=10.77.0.2 --host cloud=10.77.0.3 --sshd cloud -- \\
      sh -c 'ssh -F $SPLITBENCH_SSH_CONFIG cloud ip address'
"""


@dataclass(frozen=True)
class Wish:
    """The settings of a command line."""

    addresses: dict[str, str]
    rates: dict[str, str]
    delays: dict[str, str]
    servers: list[str]
    """The hosts with an SSH server."""
    where: str
    """The host on which the command runs."""
    command: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: that of the command, 1 failed, 2 refused, 130 interrupted."""
    return exit_status(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    wish = _wish(sys.argv[1:] if argv is None else argv)
    hosts = ",".join(f"{name}={address}" for name, address in wish.addresses.items())
    environment = {**os.environ, "SPLITBENCH_HOSTS": hosts}
    shaped = [f"tbf {rate} at {name}" for name, rate in wish.rates.items()]
    shaped += [f"netem delay {delay} at {name}" for name, delay in wish.delays.items()]
    if shaped:
        environment[SHAPED] = ", ".join(shaped)
    with ExitStack() as stack:
        net = stack.enter_context(network(wish.addresses, wish.rates, wish.delays))
        if wish.servers:
            folder = Path(stack.enter_context(scratch.folder()))
            environment["SPLITBENCH_SSH_CONFIG"] = str(stack.enter_context(sshd(net, wish.servers, folder)))
        status = net.popen(wish.where, wish.command, env=environment).wait()
    return status if status >= 0 else 128 - status


def _wish(argv: Sequence[str]) -> Wish:
    """Read the command line. Raises `UsageError` or `PartitionError` for what cannot be used."""
    parser = Parser(PROG, DESCRIPTION, EPILOG, USAGE)
    add = parser.add_argument
    add("--host", action="append", metavar="NAME=ADDRESS", help="a host and its IPv4 address; all are in one /24")
    add("--rate", action="append", metavar="[NAME=]RATE", help="what the links carry each way, or one host's link")
    add("--delay", action="append", metavar="[NAME=]TIME", help="how long the links take one way; needs netem")
    add("--sshd", action=Once, several=True, metavar="NAME,...", help="the hosts with an SSH server")
    add("--in", action=Once, several=False, metavar="NAME", help="where COMMAND runs (default: the first host)")
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    texts, command = parser.texts(words[:end]), words[end + 1 :]
    if not command:
        raise UsageError(f"no command; write it after --, as in: {USAGE}")
    addresses = _pairs("--host", texts.get("host", []))
    if not addresses:
        raise UsageError("no host; give at least one, such as --host edge=10.77.0.2")
    rates, delays = (_by_host(f"--{name}", texts.get(name, []), addresses) for name in ("rate", "delay"))
    servers = texts["sshd"].split(",") if "sshd" in texts else []
    where = texts.get("in", next(iter(addresses)))
    for flag, names in (("--rate", [*rates]), ("--delay", [*delays]), ("--sshd", servers), ("--in", [where])):
        for name in names:
            if name not in addresses:
                raise UsageError(f"{flag}: no host {name!r}{hint(name, addresses)}")
    return Wish(addresses, rates, delays, servers, where, command)


def _by_host(flag: str, texts: Sequence[str], hosts: Iterable[str]) -> dict[str, str]:
    """Host -> its value, from texts such as `50mbit` (for all hosts) and `edge=50mbit`."""
    everywhere = [text for text in texts if "=" not in text]
    if len(everywhere) > 1:
        raise UsageError(f"{flag}: given twice for all hosts; give it once, or as NAME=VALUE")
    common = dict.fromkeys(hosts, everywhere[0]) if everywhere else {}
    return common | _pairs(flag, [text for text in texts if "=" in text])


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` of each text, by name."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{flag}: {text!r} is not NAME=VALUE; write it like edge=10.77.0.2")
        if name in found:
            raise UsageError(f"{flag}: two values for host {name}; give it once")
        found[name] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
