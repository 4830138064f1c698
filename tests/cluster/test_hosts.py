"""Files and short lists of hosts, and which host holds which server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.hosts import Host, by_name, members, read, servers_of, spread
from transports.errors import UsageError

FILE = """
[[host]]
name = "pi-1"
address = "10.0.0.11"
ssh = "pi@pi-1.lan"
python = "/opt/sb/bin/python"
labels = { tier = "edge", site = "roof" }
servers = [0, 2]
cpu = 0.5
[[host]]
name = "cloud"
servers = [1]
client = true
"""


def hosts(*texts: str) -> list[Host]:
    """Hosts from texts `name=label:servers`, such as `a=edge:0,1`."""
    found = []
    for text in texts:
        name, _, rest = text.partition("=")
        label, _, servers = rest.partition(":")
        labels = {"tier": label} if label else {}
        found.append(Host(name=name, labels=labels, servers=tuple(map(int, filter(None, servers.split(","))))))
    return found


def test_a_file_has_a_table_for_each_host(tmp_path: Path) -> None:
    (path := tmp_path / "hosts.toml").write_text(FILE)
    first, second = read(str(path))
    assert (first.name, first.servers, first.cpu) == ("pi-1", (0, 2), 0.5)
    assert first.groups == {"pi-1", "edge", "roof"}
    assert second == Host(name="cloud", servers=(1,), client=True)
    assert by_name([first, second]) == {"pi-1": first, "cloud": second}


def test_a_record_does_not_say_where_a_host_is(tmp_path: Path) -> None:
    (path := tmp_path / "hosts.toml").write_text(FILE)
    record = read(str(path))[0].record()
    assert record["labels"] == {"tier": "edge", "site": "roof"}
    assert record.keys().isdisjoint({"ssh", "python", "address", "bind"})


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("a", [()]),
        ("a,b", [(), ()]),
        ("a:1, b:2", [(0,), (1, 2)]),
        ("a:0,b:1", [(), (0,)]),
        ("a.b-c_1:1", [(0,)]),
    ],
)
def test_a_short_list_numbers_the_servers_in_sequence(text: str, held: list[tuple[int, ...]]) -> None:
    assert [host.servers for host in read(text)] == held


BAD_TEXTS = [
    ("", "'' is not NAME:SERVERS"),
    ("a,,b", "'' is not NAME:SERVERS"),
    ("a:", "'a:' is not NAME:SERVERS"),
    ("a:x", "'a:x' is not NAME:SERVERS"),
    ("a:-1", "'a:-1' is not NAME:SERVERS"),
    ("-a:1", "'-a:1' is not NAME:SERVERS"),
    ("a:1:2", "'a:1:2' is not NAME:SERVERS"),
    ("a:99999999999999", "'a:99999999999999' is not NAME:SERVERS"),
    ("a:1,a:1", "two hosts are called a"),
    ("client:1", "'client' means the machine of the run"),
    ("nowhere.toml", "cannot read nowhere.toml: No such file"),
]


@pytest.mark.parametrize(("text", "hint"), BAD_TEXTS)
def test_a_short_list_that_cannot_be_read_is_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        read(text)


BAD_FILES = [
    ("", "no host; write"),
    ("[[host", "is no TOML"),
    ("\xff", "is no TOML"),
    ("[[host]]", "missing required field `name` - at `\\$.host\\[0\\]`"),
    ('[[host]]\nname = "a"\nsevrers = [1]', "unknown field `sevrers`"),
    ('[[host]]\nname = "a"\nservers = 1', "Expected `array`, got `int` - at `\\$.host\\[0\\].servers`"),
    ('[[host]]\nname = "a"\nservers = [-1]', ">= 0"),
    ('[[host]]\nname = "a"\nport = 65536', "<= 65535"),
    ('[[host]]\nname = "a"\ncpu = -1.0', ">= 0"),
    ('[[host]]\nname = "a b"', "matching regex"),
    ('[[host]]\nname = "a"\n[[host]]\nname = "a"', "two hosts are called a"),
    ('[[host]]\nname = "a"\nservers = [1, 1]', "two hosts hold server 1"),
    ('[[host]]\nname = "a"\nclient = true\n[[host]]\nname = "b"\nclient = true', "two hosts have client = True"),
    ('[host]\nname = "a"', "Expected `array`, got `object`"),
    ('[[hosts]]\nname = "a"', "unknown field `hosts`"),
]


@pytest.mark.parametrize(("text", "hint"), BAD_FILES)
def test_a_file_that_cannot_be_used_is_refused_with_its_name(text: str, hint: str, tmp_path: Path) -> None:
    (path := tmp_path / "hosts.toml").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=hint) as error:
        read(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("given", "count", "held"),
    [
        (["a", "b"], 4, "aabb"),
        (["a", "b"], 3, "aab"),
        (["a", "b", "c"], 2, "ab"),
        (["a=:1", "b=:0,2"], 3, "bab"),
        (["a=:1", "b=:0,2"], 1, "b"),
        (["a", "b=:0,1"], 2, "bb"),
    ],
)
def test_servers_are_held_as_given_or_in_blocks(given: Sequence[str], count: int, held: str) -> None:
    found = servers_of(hosts(*given), count)
    assert "".join(found[server] for server in range(count)) == held


def test_a_server_on_no_host_is_refused() -> None:
    with pytest.raises(UsageError, match=r"server 1 is on no host: the hosts hold 2 servers and a cell has 3"):
        servers_of(hosts("a=:0", "b=:2"), 3)


LAB = hosts("a=edge:0,1", "b=edge:2", "c=cloud:3")
HELD = servers_of(LAB, 4)


@pytest.mark.parametrize(
    ("on", "count", "found"),
    [
        ("c", 1, [3]),
        ("edge", 2, [0, 1]),
        ("edge + cloud", 4, [0, 1, 2, 3]),
        ("cloud+edge", 2, [3, 0]),
        ("b+a", 3, [2, 0, 1]),
        ("a+edge", 3, [0, 1, 2]),
    ],
)
def test_a_cell_takes_the_first_servers_of_its_hosts(on: str, count: int, found: list[int]) -> None:
    assert spread(on, LAB, HELD, count) == found


@pytest.mark.parametrize(
    ("on", "count", "hint"),
    [
        ("egde", 1, r"--on egde: no host 'egde'; did you mean 'edge'"),
        ("edge", 4, r"--on edge: these hosts hold 3 servers, and a cell has 4"),
        ("c+c", 2, r"--on c\+c: these hosts hold 1 servers, and a cell has 2"),
        ("a+", 1, r"no host ''"),
    ],
)
def test_hosts_that_cannot_hold_a_cell_are_refused(on: str, count: int, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        spread(on, LAB, HELD, count)


def test_a_word_means_a_host_or_all_with_a_label() -> None:
    assert [members(word, LAB, "--link") for word in ("a", "edge", "cloud")] == [["a"], ["a", "b"], ["c"]]
