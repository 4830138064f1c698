"""Options of command lines. Each option is declared once, as a field of a dataclass:

    runs: Annotated[int, option("timed requests in each cell", "schedule", "client", ge=1, le=10**7)] = 50

The flag, the key in a file, the checks with their error texts, and the tables of the documentation derive from it.
This module imports neither numpy nor TensorFlow, so that `--help` stays fast.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from partitioning.errors import PartitionError, suggest
from partitioning.placement import ALIASES, PLACEMENTS
from partitioning.strategy_table import MODES, split_cuts

Noun = TypeVar("Noun")
Split = Callable[[Any, str], list[Any]]

JOINT = "; "
SWITCH = ("on", "off")
"""The valid values of an option whose flag without a value means `on`."""
WRONG: Mapping[type, str] = {str: "is no text; write it in quotes", int: "is no whole number", float: "is no number"}
METAVARS: Mapping[object, str] = {
    int: "N",
    float: "X",
    str: "TEXT",
    "seconds": "SECONDS",
    "bytes": "BYTES",
    "percent": "PERCENT",
}


@dataclass(frozen=True)
class Option:
    """A field that users set."""

    name: str
    kind: type
    """`str`, `int` or `float`."""
    default: Any
    """`MISSING` if the option is required."""
    range: msgspec.Meta
    """The smallest and largest value, or the least length of a text."""
    group: str
    """The heading under which `--help` lists it."""
    concerns: tuple[str, ...]
    """The parts that the option changes: client, nodes, registry, transports, model servers, report."""
    several: bool = False
    """Whether the option may have several values, separated by commas."""
    repeat: bool = False
    """Whether the flag may be given more than once; its raw value is a list of texts."""
    joined: bool = False
    """Whether the flag may be given more than once; its raw value is one text, with `JOINT` between the values."""
    short: str = ""
    """A second name of the flag, such as `-H`."""
    valid: Collection[str] = ()
    """All valid values; empty: every value of the type within the range."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Older value that is still accepted -> the value that replaces it."""
    unit: str = ""
    shown: str = ""
    """The default in `--help`; empty: the default value itself."""
    metavar: str = ""
    word: str = ""
    """The name of the flag and of the key in a file; empty: the field's name."""
    split: Split | None = None
    """Splits a raw value into a list of raw values; None: at commas."""

    @property
    def flag(self) -> str:
        return "--" + (self.word or self.name).replace("_", "-")

    @property
    def help(self) -> str:
        return self.range.description or ""

    @property
    def default_text(self) -> str:
        return self.shown or ("none" if self.default in ("", (), MISSING) else str(self.default))

    @property
    def bounds(self) -> str:
        """The range in words, with its unit; empty if there is none."""
        low, high = self.range, self.range.le
        least = f"more than {low.gt}" if low.gt is not None else "" if low.ge is None else str(low.ge)
        if not least or high is None:
            words = f"{least} or more" if low.ge is not None else least
        else:
            words = f"{least} to {high}" if low.ge is not None else f"{least}, up to {high}"
        return f"{words} {self.unit}".strip()

    def values(self, raw: Any, where: str) -> tuple[Any, ...]:
        """The checked values in `raw` (a text, or a value of a TOML file), each once.

        Raises `PartitionError`, which begins with `where` and ends with the valid values.
        """
        items = self._items(raw, where)
        if not items:
            raise PartitionError(f"{where}: an empty list; give at least one value")
        found = tuple(dict.fromkeys(self._value(item, where) for item in items))
        if len(found) > 1 and not self.several:
            raise PartitionError(f"{where}: {raw!r} has {len(found)} values; give one")
        return found

    def _items(self, raw: Any, where: str) -> list[Any]:
        if self.split is not None:
            return self.split(raw, where)
        if not self.several:
            return [raw]
        return raw.split(",") if isinstance(raw, str) else raw if isinstance(raw, list) else [raw]

    def _value(self, raw: Any, where: str) -> Any:
        value: Any
        try:
            text = raw.strip() if isinstance(raw, str) else raw
            if self.unit == "percent" and isinstance(text, str):
                text = text.removesuffix("%")
            value = msgspec.convert(text, self.kind, strict=False)
            if self.kind is float and not math.isfinite(value):
                raise ValueError(value)
        except (msgspec.ValidationError, ValueError):
            valid = f"; valid: {self.bounds}" if self.bounds else ""
            raise PartitionError(f"{where}: {raw!r} {WRONG[self.kind]}{valid}") from None
        value = self.aliases.get(value, value)
        if self.valid and value not in self.valid:
            raise PartitionError(f"{where}: no {self.name} {value!r}{hint(value, self.valid)}")
        low, high, text = self.range, self.range.le, f"{value:g}" if self.kind is float else value
        if value == "" and low.min_length:
            raise PartitionError(f"{where}: an empty value; {self.help}")
        small = (low.ge is not None and value < low.ge) or (low.gt is not None and value <= low.gt)
        if small or (high is not None and value > high):
            raise PartitionError(f"{where}: {text} is too {'small' if small else 'large'}; valid: {self.bounds}")
        return value


def hint(word: str, valid: Iterable[str]) -> str:
    """The end of an error text: `"; did you mean 'grpc'? (valid: none, grpc)"`, or `"; valid: none, grpc"`."""
    names = list(valid)
    near, listed = suggest(word, names), f"valid: {', '.join(names)}"
    return f"{near} ({listed})" if near else f"; {listed}"


def option(help: str, group: str = "", concerns: str = "client", **facts: Any) -> msgspec.Meta:
    """The annotation of a field that users set. `facts`: `ge`, `gt`, `le`, `min_length`, and fields of `Option`.

    `concerns`: as in `Option`, separated by commas.
    """
    limits = {name: facts.pop(name) for name in ("ge", "gt", "le", "min_length") if name in facts}
    facts |= {"group": group, "concerns": tuple(concerns.split(", "))}
    return msgspec.Meta(**limits, description=help, extra=facts)


def options_of(noun: type[Any], *, several: bool = False) -> dict[str, Option]:
    """The options among the fields of the dataclass `noun`, by name.

    `several`: every option may have several values, not only those whose field is a tuple.
    """
    hints = get_type_hints(noun, include_extras=True)
    found = {}
    for item in fields(noun):
        if get_origin(hints[item.name]) is Annotated:
            kind, meta = get_args(hints[item.name])
            listed = get_origin(kind) is tuple
            one = get_args(kind)[0] if listed else kind
            found[item.name] = Option(item.name, one, item.default, meta, several=several or listed, **meta.extra)
    return found


class Parser(argparse.ArgumentParser):
    """Reads flags as text. Raises `PartitionError` for a flag that is unknown, repeated, or lacks its value."""

    def __init__(self, prog: str, description: str, epilog: str, usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )

    def add_options(self, options: Iterable[Option], axes: Collection[str] = ()) -> None:
        """Add a flag for each option, under its group's heading. `axes`: names of options that make a matrix."""
        groups: dict[str, argparse._ArgumentGroup] = {}
        for item in options:
            if item.group not in groups:
                groups[item.group] = self.add_argument_group(item.group or "flags")
            default = "required" if item.default is MISSING else f"default: {item.default_text}"
            text = f"{'* ' if item.name in axes else ''}{item.help} ({default})".replace("%", "%%")
            metavar = item.metavar or "|".join(item.valid) or METAVARS.get(item.unit) or METAVARS[item.kind]
            more: dict[str, Any] = {"nargs": "?", "const": "on"} if item.valid == SWITCH else {}
            repeated = "append" if item.repeat else Joined if item.joined else None
            more |= {"action": repeated} if repeated else {"action": Once, "several": item.several}
            more |= {"dest": item.name, "metavar": metavar, "help": text, "required": item.default is MISSING}
            groups[item.group].add_argument(*filter(None, (item.short, item.flag)), **more)

    def texts(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The text of each given flag, by the option's name."""
        namespace, unknown = self.parse_known_args(_joined(sys.argv[1:] if argv is None else argv))
        if unknown:
            word, flags = unknown[0].partition("=")[0], [flag for flag in self._option_string_actions if flag != "-h"]
            raise PartitionError(f"no flag {word!r}{hint(word, flags)}")
        return vars(namespace)

    def read(self, noun: type[Noun], argv: Sequence[str] | None) -> Noun:
        """A `noun` with the values of the flags."""
        options = options_of(noun)
        self.add_options(options.values())
        texts = self.texts(argv)
        given = {name: options[name].values(text, options[name].flag) for name, text in texts.items()}
        return noun(**{name: values if options[name].several else values[0] for name, values in given.items()})

    def error(self, message: str) -> NoReturn:
        raise PartitionError(message.removeprefix("argument "))


def _joined(argv: Sequence[str]) -> list[str]:
    """`--scale -1..1` as `--scale=-1..1`, since argparse takes a word that begins with a dash for a flag."""
    words: list[str] = []
    for word in argv:
        if re.match(r"-\d", word) and words and words[-1].startswith("--") and "=" not in words[-1]:
            word = f"{words.pop()}={word}"
        words.append(word)
    return words


class Joined(argparse.Action):
    """Joins the values of a repeated flag to one text."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        earlier = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if earlier is None else f"{earlier}{JOINT}{values}")


class Once(argparse.Action):
    """Stores a value and refuses a second one, since silently keeping the last value would run the wrong experiment."""

    def __init__(self, *names: Any, several: bool, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.hint = "write several values with a comma" if several else "give it once"

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, f"given twice; {self.hint}")
        setattr(namespace, self.dest, values)


MODEL_FILES = (".keras", ".h5", ".hdf5")
"""Suffixes of the files that hold a model."""
SPLIT = "how the model is split"
INPUT = "model and input"

Model = Annotated[
    str,
    option(
        "a name in keras.applications, or a .keras or .h5 file", INPUT, "client, nodes, model servers", min_length=1
    ),
]
Imports = Annotated[
    tuple[str, ...],
    option(
        "module to import first in every process, for example to register classes of the model's layers; may be "
        "repeated",
        *(INPUT, "client, nodes, model servers"),
        metavar="MODULE",
        min_length=1,
        repeat=True,
        word="import",
    ),
]
TrustModel = Annotated[
    str,
    option("run the code that is pickled in the model's file (Lambda layers)", INPUT, "client, nodes", valid=SWITCH),
]
Mode = Annotated[
    str, option("what a stage is: the whole model, one operation, or one of N groups", SPLIT, "nodes", valid=MODES)
]
Cut = Annotated[
    str,
    option(
        "where submodels are cut: equal (same number of operations), balanced (same cost), narrow (few bytes cross), "
        "advised (fewest seconds by --profile), or NAME,NAME: the operations that begin a new group",
        *(SPLIT, "nodes"),
        metavar="CUT,...",
        split=split_cuts,
        min_length=1,
    ),
]
Servers = Annotated[int, option("servers that share the stages, and groups of a submodel", SPLIT, "nodes", ge=1)]
Placed = Annotated[str, option("which server holds which stage", SPLIT, "nodes", valid=PLACEMENTS, aliases=ALIASES)]
