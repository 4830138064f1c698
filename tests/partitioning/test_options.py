"""Options: the flag, the help text, the checks and the value that derive from one declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from partitioning import export, show
from partitioning.errors import PartitionError
from partitioning.options import SWITCH, Cut, Parser, option, options_of


@dataclass(frozen=True, kw_only=True)
class Tea:
    """Options of every kind."""

    kind: Annotated[str, option("leaves", "taste", valid=("green", "black"), aliases={"red": "black"})] = "green"
    cups: Annotated[int, option("cups", "taste", "client, nodes", ge=1, le=12, unit="cups")] = 2
    heat: Annotated[float, option("of the water", gt=0, le=100)] = 80.0
    sugar: Annotated[int, option("spoons", ge=0)] = 0
    hurry: Annotated[float, option("factor", gt=1)] = 2.0
    guests: Annotated[tuple[str, ...], option("names")] = ()
    extra: Annotated[tuple[str, ...], option("100 % more", metavar="KEY=VALUE", repeat=True)] = ()
    milk: Annotated[str, option("with milk", valid=SWITCH)] = "off"
    cut: Cut = "equal"
    pot: Annotated[str, option("which pot", min_length=1)]
    weather: str = "a field without a declaration is no option"


def tea(*argv: str) -> Tea:
    return Parser("tea", "Make tea.", "%(prog)s --pot big").read(Tea, argv)


OPTIONS = options_of(Tea)


def test_defaults_hold_where_no_flag_is_given() -> None:
    assert tea("--pot", "big") == Tea(pot="big")
    assert set(OPTIONS) == {*Tea.__dataclass_fields__} - {"weather"}


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--kind", "red"], "kind", "black"),
        (["--cups", " 12 "], "cups", 12),
        (["--heat=1e1"], "heat", 10.0),
        (["--guests", "ann, bob,ann"], "guests", ("ann", "bob")),
        (["--extra", "a=1,2", "--extra", "b=3"], "extra", ("a=1,2", "b=3")),
        (["--milk"], "milk", "on"),
        (["--milk", "off"], "milk", "off"),
        (["--cut", "a, b"], "cut", "a+b"),
    ],
)
def test_a_flag_gives_a_value_of_the_declared_type(argv: list[str], name: str, value: object) -> None:
    found = getattr(tea("--pot", "big", *argv), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--kind", "gren"], "--kind: no kind 'gren'; did you mean 'green'? (valid: green, black)"),
        (["--kind", "x"], "--kind: no kind 'x'; valid: green, black"),
        (["--cups", "0"], "--cups: 0 is too small; valid: 1 to 12 cups"),
        (["--cups", "13"], "--cups: 13 is too large; valid: 1 to 12 cups"),
        (["--cups", "two"], "--cups: 'two' is no whole number; valid: 1 to 12 cups"),
        (["--heat", "0"], "--heat: 0 is too small; valid: more than 0, up to 100"),
        (["--heat", "nan"], "--heat: 'nan' is no number; valid: more than 0, up to 100"),
        (["--sugar", "-1"], "--sugar: -1 is too small; valid: 0 or more"),
        (["--hurry", "1"], "--hurry: 1 is too small; valid: more than 1"),
        (["--pot", " "], "--pot: an empty value; which pot"),
        (["--cut", "equal,balanced"], "--cut: 'equal,balanced' has 2 values; give one"),
        (["--cups", "1", "--cups", "1"], "--cups: given twice; give it once"),
        (["--guests", "ann", "--guests", "bob"], "--guests: given twice; write several values with a comma"),
        (["--cup", "1"], "no flag '--cup'; did you mean '--cups'? (valid: --help, --kind, --cups"),
        (["--cups"], "--cups: expected one argument"),
    ],
)
def test_an_unusable_flag_is_refused_with_the_valid_values(argv: list[str], message: str) -> None:
    with pytest.raises(PartitionError) as refused:
        tea(*([] if "--pot" in argv else ["--pot", "big"]), *argv)
    assert str(refused.value).startswith(message)


def test_a_missing_required_flag_is_refused() -> None:
    with pytest.raises(PartitionError, match="--pot"):
        tea("--cups", "1")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("cups", 3, (3,)),
        ("cups", True, "cups: True is no whole number"),
        ("cups", [3], "cups: [3] is no whole number"),
        ("heat", 60, (60.0,)),
        ("kind", 7, "kind: 7 is no text; write it in quotes"),
        ("guests", ["ann", "bob"], ("ann", "bob")),
        ("guests", [], "guests: an empty list; give at least one value"),
        ("cut", ["a,b"], ("a+b",)),
        ("cut", ["a,,b"], "cut: 'a++b' has an empty operation name in it"),
    ],
)
def test_a_value_from_a_file_is_checked_like_a_flag(name: str, raw: Any, expected: object) -> None:
    if isinstance(expected, tuple):
        assert OPTIONS[name].values(raw, name) == expected
    else:
        with pytest.raises(PartitionError) as refused:
            OPTIONS[name].values(raw, name)
        assert str(expected) in str(refused.value)


def test_help_lists_each_flag_with_its_default(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        tea("--help")
    assert end.value.code == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "taste:",
        "--kind green|black leaves (default: green)",
        "--cups N cups (default: 2)",
        "--heat X of the water (default: 80.0)",
        "--extra KEY=VALUE 100 % more (default: none)",
        "--milk [on|off] with milk (default: off)",
        "--pot TEXT which pot (required)",
        "tea --pot big",
    ):
        assert line in lines


@pytest.mark.parametrize("program", [show, export], ids=lambda program: program.__name__)
def test_a_repeated_flag_is_refused_in_one_line(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--servers", "2", "--servers", "3"]) == 2
    name = program.__name__
    assert capsys.readouterr().err == f"{name}: --servers: given twice; give it once\n"
