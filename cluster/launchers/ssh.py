"""The connection to a fork server on another machine: the system's OpenSSH client.

It uses the user's own configuration, agent and jump hosts, and never prompts. The host's Python runs the fork server,
so this package must be installed in it.
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
"""Seconds without an order of the launcher after which a fork server ends."""
UNANSWERED = 3
"""Number of ssh's keep-alive messages in a row that the host may leave unanswered."""
CONNECT = 10
"""Seconds within which ssh has to connect."""
SSH_FAILED, NOT_RUN = 255, (126, 127)
"""Exit statuses of ssh for its own failures, and of a shell for a program that it cannot run."""
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
"""Part of the output of ssh -> advice for the user."""
FROM_HOST: Mapping[str, str] = {
    "No module named": "install this package there, in the Python that `python` of the host names",
    "Unknown option: -P": "give a Python of version 3.11 or newer as `python` of the host",
    "not found": NO_PYTHON,
}
"""Part of the output of the host's shell or Python -> advice for the user."""


def way(host: Host, ssh: str, silence: float = SILENCE) -> Way:
    """The connection to `host`. `ssh`: the client's command, split into words as by a shell. Raises `UsageError` for a
    missing program.

    Both ends assume that the connection is lost after about `silence` seconds without data from the other end.
    """
    words = program(ssh)
    python = host.python or "python3"
    home = "~/" if python.startswith("~/") else ""  # not quoted, so that the host's shell expands it
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
    """The IP address of the host name in ssh's configuration; the name itself if this machine cannot resolve it.

    On the host itself, the name may resolve to another address, such as 127.0.1.1, at which others cannot reach it.
    """
    command = [*program(ssh), "-G", "--", host.ssh or host.name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    name = next((value for key, _, value in lines if key == "hostname"), "")
    with contextlib.suppress(OSError, UnicodeError):
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]) if name else ""
    return name


def remedy(status: int, log: str) -> str:
    """Advice for an ssh that ended with `status` and printed `log`: the end of an error text."""
    known = FROM_SSH if status == SSH_FAILED else FROM_HOST
    found = next((todo for part, todo in known.items() if part in log), "")
    if not found and status == SSH_FAILED:
        found = "the connection was lost, or could not be made: try `ssh` to it by hand"
    if not found and status in NOT_RUN:
        found = NO_PYTHON
    if not found and status != SSH_FAILED and not log.strip():
        found = "is `python` of the host a Python with this package?"
    return f"; {found}" if found else ""
