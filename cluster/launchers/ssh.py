"""The way to a fork server on another machine: the system's OpenSSH client.

Its configuration, its agent and its jump hosts are the user's own. It never asks a question. The fork server is run by
the host's Python, in which this package must be installed.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping

from cluster.hosts import Host
from cluster.launchers import fork_server
from cluster.launchers.pipe import Way
from transports.errors import UsageError

SILENCE = 20.0
"""Seconds without a sign of the launcher after which a fork server ends."""
ALIVE = (5, 3)
"""Seconds between two questions of ssh whether the host is there, and how many may stay without an answer."""
CONNECT = 10
"""Seconds within which ssh has to connect."""
SSH_FAILED = 255

REMEDIES: Mapping[str, str] = {
    "Permission denied": "let ssh log in without a question: a key in its agent or IdentityFile",
    "Host key verification failed": "log in by hand once, and accept the key of the host only if you know it",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "find out why its key has changed; then ssh-keygen -R HOST",
    "Could not resolve": "give its name or address as `ssh` of the host, or in ~/.ssh/config",
    "timed out": "is it switched on, and does its firewall let ssh pass?",
    "Connection refused": "start its sshd, or give the right port in ~/.ssh/config",
    "No route to host": "is it switched on, and on this network?",
    "No module named": "install this package there, in the Python that `python` of the host names",
    "Unknown option: -P": "give a Python of version 3.11 or newer as `python` of the host",
    "not found": "give the path of its Python as `python` of the host",
    "No such file or directory": "give the path of its Python as `python` of the host",
}
"""A part of what ssh or the host prints -> what to do."""


def way(host: Host, ssh: str) -> Way:
    """`ssh`: the command of the client, its words split as a shell does. Raises `UsageError` for a missing program."""
    words = program(ssh)
    run = shlex.join([host.python or "python3", "-P", "-m", fork_server.__name__])
    interval, count = ALIVE
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT),
        "ServerAliveInterval": str(interval),
        "ServerAliveCountMax": str(count),
        "LogLevel": "ERROR",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = [*words, "-T", *flags, "--", host.ssh or host.name, f"exec {run}"]
    return Way(command, f"host {host.name}: its launcher", SILENCE, remedy)


def program(ssh: str) -> list[str]:
    """The words of the command `ssh`. Raises `UsageError`."""
    try:
        words = shlex.split(ssh)
    except ValueError as error:
        raise UsageError(f"--ssh {ssh!r}: {error}; write it as a shell takes it") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--ssh {ssh!r}: no such program; install the OpenSSH client, or give its path")
    return words


def address(host: Host, ssh: str) -> str:
    """The address that ssh's configuration has for the host; empty if it has none."""
    command = [*program(ssh), "-G", "--", host.ssh or host.name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return next((value for name, _, value in lines if name == "hostname"), "")


def remedy(status: int, log: str) -> str:
    """What to do about an ssh that ended with `status` and printed `log`: the end of an error text."""
    found = next((todo for part, todo in REMEDIES.items() if part in log), "")
    if not found and status == SSH_FAILED:
        found = "the connection was lost, or could not be made: try `ssh` to it by hand"
    return f"; {found}" if found else ""
