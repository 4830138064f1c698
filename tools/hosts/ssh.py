"""OpenSSH servers on hosts of `tools.hosts.namespaces`, with keys of their own and an ssh_config that leads to them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tools.hosts.namespaces import Network, missing, program
from transports.errors import SplitbenchError, UsageError

PORT = 2222
"""The port of every server: each host has its own network, so the ports do not collide."""
SEPARATION = Path("/run/sshd")
"""The empty folder that sshd demands when root runs it."""
SERVER = """\
Port {port}
ListenAddress {address}
HostKey "{folder}/{name}.key"
AuthorizedKeysFile "{folder}/user.key.pub"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PidFile none
PrintMotd no
MaxStartups 100
Subsystem sftp internal-sftp
"""
CLIENT = """\
Host {name}
  HostName {address}
  Port {port}
  User {user}
  IdentityFile "{folder}/user.key"
  IdentitiesOnly yes
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
"""


@contextmanager
def sshd(net: Network, names: Iterable[str], folder: Path) -> Iterator[Path]:
    """Run an SSH server on each host; yields the path of an ssh_config that has the hosts by name.

    `folder` gets the keys, the configuration, and the log of each server as NAME.log. The user that runs this can log
    in from any host: `net.run("edge", ["ssh", "-F", str(config), "cloud", "uname"])`. On leaving, the servers are
    ended; their open sessions end with the network. Raises `UsageError` for an unknown host, or if OpenSSH is missing,
    and `SplitbenchError` with the server's words if one does not start.
    """
    if reason := missing(ssh=True):
        raise UsageError(reason)
    names, folder = list(names), folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    _key(folder / "user.key")
    config, known = "", ""
    with ExitStack() as stack:
        for name in names:
            facts = {"name": name, "address": net.address(name), "port": PORT, "folder": folder, "user": user}
            known += f"[{net.address(name)}]:{PORT} {_key(folder / f'{name}.key')}"
            config += CLIENT.format(**facts)
            (folder / f"{name}.sshd_config").write_text(SERVER.format(**facts), encoding="utf-8")
            stack.enter_context(_server(net, name, folder))
        (folder / "known_hosts").write_text(known, encoding="utf-8")
        (folder / "ssh_config").write_text(config, encoding="utf-8")
        yield folder / "ssh_config"


def _key(path: Path) -> str:
    """Make a key pair, and return its public key as a line."""
    path.unlink(missing_ok=True)  # ssh-keygen would ask
    subprocess.run(
        [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path.with_name(f"{path.name}.pub").read_text(encoding="utf-8")


@contextmanager
def _server(net: Network, name: str, folder: Path) -> Iterator[None]:
    """A server that accepts connections."""
    command = [program("sshd"), "-D", "-e", "-f", str(folder / f"{name}.sshd_config")]
    if os.geteuid() == 0:
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    else:  # as "root" of a user namespace, sshd would change to another user, and the namespace has no other user
        ids = (f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}")
        command = [program("unshare"), "--user", *ids, *command]
    process = net.popen(name, command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr is not None
    said = b""
    while b"Server listening on" not in said:
        line = process.stderr.readline()
        said += line
        if not line:
            raise SplitbenchError(f"sshd on {name} ended with status {process.wait()}: {said.decode().strip()}")
    # Sessions write to this pipe too, and would block if no process read it.
    threading.Thread(target=_keep, args=(process.stderr, folder / f"{name}.log"), daemon=True).start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _keep(source: IO[bytes], path: Path) -> None:
    """Copy `source` to a file, each byte as soon as it arrives."""
    with source, path.open("wb", buffering=0) as log:
        shutil.copyfileobj(source, log, 1)
