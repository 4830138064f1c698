"""The way to a fork server on another machine: the system's OpenSSH client.

Its configuration, its agent and its jump hosts are the user's own. It never asks a question. The fork server is run by
the host's Python, in which this package must be installed.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping

from cluster.hosts import Host
from cluster.launchers import fork_server
from cluster.launchers.pipe import Way
from transports.errors import UsageError

SILENCE = 20.0
"""Seconds without a sign of the launcher after which a fork server ends."""
UNANSWERED = 3
"""Questions of ssh whether the host is there that may stay without an answer."""
CONNECT = 10
"""Seconds within which ssh has to connect."""
SSH_FAILED, NOT_RUN = 255, (126, 127)
"""Exit statuses: of ssh for its own failures, and of a shell for a program that it cannot run."""
NO_PYTHON = "give the path of its Python as `python` of the host"

FROM_SSH: Mapping[str, str] = {
    "Permission denied": "let ssh log in without a question: a key in its agent or IdentityFile",
    "Host key verification failed": "log in by hand once, and accept the key of the host only if you know it",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "find out why its key has changed; then ssh-keygen -R HOST",
    "Could not resolve": "give its name or address as `ssh` of the host, or in ~/.ssh/config",
    "timed out": "is it switched on, and does its firewall let ssh pass?",
    "Connection refused": "start its sshd, or give the right port in ~/.ssh/config",
    "No route to host": "is it switched on, and on this network?",
}
"""A part of what ssh prints -> what to do."""
FROM_HOST: Mapping[str, str] = {
    "No module named": "install this package there, in the Python that `python` of the host names",
    "Unknown option: -P": "give a Python of version 3.11 or newer as `python` of the host",
    "not found": NO_PYTHON,
}
"""A part of what the host's shell or Python prints -> what to do."""


def way(host: Host, ssh: str, silence: float = SILENCE) -> Way:
    """`ssh`: the command of the client, its words split as a shell does. Raises `UsageError` for a missing program.

    Both ends take the connection for lost after about `silence` seconds without a sign of the other one.
    """
    words = program(ssh)
    python = host.python or "python3"
    home = "~/" if python.startswith("~/") else ""  # not quoted, so that each shell replaces it
    run = home + shlex.join([python.removeprefix(home), "-P", "-m", fork_server.__name__])
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT),
        "ServerAliveInterval": str(max(1, round(silence / (UNANSWERED + 1)))),
        "ServerAliveCountMax": str(UNANSWERED),
        "LogLevel": "ERROR",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = [*words, "-T", *flags, "--", host.ssh or host.name, f"exec {run}"]
    return Way(command, f"host {host.name}: its launcher", silence, remedy)


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
    """The IP address of what ssh's configuration has as the name of the host; the name itself if it has none here.

    A name may mean another address on the host itself, such as 127.0.1.1, where nobody would reach its processes.
    """
    command = [*program(ssh), "-G", "--", host.ssh or host.name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    name = next((value for key, _, value in lines if key == "hostname"), "")
    with contextlib.suppress(OSError, UnicodeError):
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]) if name else ""
    return name


def remedy(status: int, log: str) -> str:
    """What to do about an ssh that ended with `status` and printed `log`: the end of an error text."""
    known = FROM_SSH if status == SSH_FAILED else FROM_HOST
    found = next((todo for part, todo in known.items() if part in log), "")
    if not found and status == SSH_FAILED:
        found = "the connection was lost, or could not be made: try `ssh` to it by hand"
    if not found and status in NOT_RUN:
        found = NO_PYTHON
    if not found and status != SSH_FAILED and not log.strip():
        found = "is `python` of the host a Python with this package?"
    return f"; {found}" if found else ""
