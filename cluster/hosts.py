"""The machines of an experiment: a TOML file with a table for each, or a short list of names.

    [[host]]
    name = "pi-1"
    address = "10.0.0.11"           # of its processes: they bind it, and all other processes use it
    ssh = "pi@pi-1.lan"             # for --cluster ssh; empty: the name
    python = "/opt/sb/bin/python"   # the Python in which this package is installed
    labels = { tier = "edge" }      # names of groups for --on and --link; --cluster ray selects nodes by them
    servers = [0, 1]                # the servers on this host
    threads = 4                     # of TensorFlow; 0: the value of --threads
    slowdown = 2.5                  # emulates a slower processor; 1: no slowdown

`pi-1:1,cloud:2` is the short form: host names, each with its number of servers.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from transports.address import LAST_PORT
from transports.errors import UsageError, suggest

NAME = r"[A-Za-z0-9]([A-Za-z0-9_.\-]*[A-Za-z0-9])?"
VERSIONS = ("same", "any")
"""What happens to a host with other versions than here: it is refused (`same`), or measured and recorded (`any`)."""
SHAPED = "SPLITBENCH_SHAPED"
"""The environment variable that tells that the kernel shapes the links; the shaping tool sets it (`tools.hosts`)."""
CLIENT = "client"
"""The name, in links, of the machine on which the run was started, unless a host has `client = true`."""
SHORT = re.compile(rf"(?P<name>{NAME})(:(?P<count>[0-9]{{1,4}}))?")
HINT = 'write [[host]] tables with name = "..." in a TOML file, or NAME:SERVERS,NAME:SERVERS'
PRIVATE = ("ssh", "python", "address", "bind")
"""Fields that tell where a machine is; results do not record them."""

Limit = Annotated[float, Meta(ge=0.0)]


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine, or a part of this machine with --cluster local. All fields but the name have defaults."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
    address: str = ""
    """The address of the host's processes; empty: the launcher determines it (127.0.0.1 on this machine)."""
    bind: str = ""
    """The address that processes bind; empty: `address`. The two differ behind network address translation."""
    port: Annotated[int, Meta(ge=0, le=LAST_PORT)] = 0
    """The first of consecutive ports for the host's processes, if a firewall opens only some; 0: any free ports."""
    ssh: str = ""
    python: str = ""
    """The host's Python; empty: `python3` with ssh, the Python of its workers with Ray."""
    labels: Mapping[str, str] = {}
    servers: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """The servers on this host. If no host names servers, the hosts share them in blocks of consecutive servers."""
    client: bool = False
    """Whether the run is started on this host, so that links to it are links to the client."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    slowdown: Annotated[float, Meta(ge=1.0, le=1000.0)] = 1.0
    """The factor by which its nodes take longer for a stage: after each stage they wait for the time that a slower
    processor would still compute."""
    cores: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """The cores that the host's processes share; empty: all."""
    cpu: Limit = 0.0
    """The share of a core that each of the host's processes may use, such as 0.25; 0: no limit."""
    memory: Annotated[int, Meta(ge=0)] = 0
    """Bytes of memory that each of the host's processes may use; 0: no limit."""

    @property
    def groups(self) -> frozenset[str]:
        """The words that select this host, and possibly further hosts: its name and the values of its labels."""
        return frozenset({self.name, *self.labels.values()})

    def record(self) -> dict[str, Any]:
        """The host's fields for a results file, without the `PRIVATE` ones."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name not in PRIVATE}


HERE = Host(name="here", address="127.0.0.1")
"""This machine, the only host if the user names none."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    host: list[Host] = []


def read(text: str) -> tuple[Host, ...]:
    """The hosts that the value of `--hosts` names. Raises `UsageError`."""
    if not text.endswith(".toml"):
        return _short(text)
    try:
        return of_tables(tomllib.loads(Path(text).read_text(encoding="utf-8")), f"--hosts {text}")
    except OSError as error:
        raise UsageError(f"--hosts: cannot read {text}: {error.strerror}; {HINT}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--hosts: {text} is no TOML: {error}") from error


def of_tables(tables: Mapping[str, Any], where: str) -> tuple[Host, ...]:
    """The hosts in `{"host": [{"name": ...}, ...]}`. Raises `UsageError`, whose text begins with `where`."""
    try:
        return _checked(msgspec.convert(tables, _File).host, where)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}; {HINT}") from None


def _short(text: str) -> tuple[Host, ...]:
    hosts, first = [], 0
    for item in text.split(","):
        found = SHORT.fullmatch(item.strip())
        if found is None:
            raise UsageError(f"--hosts {text}: {item.strip()!r} is not NAME:SERVERS; {HINT}")
        count = int(found["count"] or 0)
        hosts.append(Host(name=found["name"], servers=tuple(range(first, first + count))))
        first += count
    return _checked(hosts, f"--hosts {text}")


def _checked(hosts: Sequence[Host], where: str) -> tuple[Host, ...]:
    if not hosts:
        raise UsageError(f"{where}: no host; {HINT}")
    for what, found in (
        ("hosts are called", Counter(host.name for host in hosts)),
        ("hosts hold server", Counter(server for host in hosts for server in host.servers)),
        ("hosts have client =", Counter(host.client for host in hosts if host.client)),
    ):
        if twice := [value for value, count in found.items() if count > 1]:
            raise UsageError(f"{where}: two {what} {twice[0]}; change one of them")
    if CLIENT in {host.name for host in hosts}:
        raise UsageError(f"{where}: {CLIENT!r} means the machine of the run; give the host another name")
    return tuple(hosts)


def members(word: str, hosts: Sequence[Host], where: str) -> list[str]:
    """The names of the hosts that `word` selects: by host name, or by a label's value. Raises `UsageError`."""
    if found := [host.name for host in hosts if word in host.groups]:
        return found
    valid = dict.fromkeys(name for host in hosts for name in sorted(host.groups))
    raise UsageError(f"{where}: no host {word!r}{suggest(word, valid)}")


def servers_of(hosts: Sequence[Host], count: int) -> dict[int, str]:
    """Server -> the name of its host, for `count` servers. If no host names `servers`, the hosts share them in blocks.

    Raises `UsageError` for a server that is on no host.
    """
    held = {server: host.name for host in hosts for server in host.servers}
    if not held:
        return {server: hosts[server * len(hosts) // count].name for server in range(count)}
    if missing := [server for server in range(count) if server not in held]:
        raise UsageError(
            f"--hosts: server {missing[0]} is on no host: the hosts hold {len(held)} servers and a cell has {count}; "
            "give them more, or set --servers"
        )
    return held


def spread(on: str, hosts: Sequence[Host], held: Mapping[int, str], count: int) -> list[int]:
    """`count` servers on the hosts that `on` selects, such as `"edge+cloud"`, for a cell of an experiment.

    Raises `UsageError` if these hosts hold fewer servers.
    """
    names = dict.fromkeys(name for word in on.split("+") for name in members(word.strip(), hosts, f"--on {on}"))
    found = [server for name in names for server in sorted(held) if held[server] == name]
    if len(found) < count:
        raise UsageError(f"--on {on}: these hosts hold {len(found)} servers, and a cell has {count}; set --servers")
    return found[:count]


def by_name(hosts: Iterable[Host]) -> dict[str, Host]:
    return {host.name: host for host in hosts}
