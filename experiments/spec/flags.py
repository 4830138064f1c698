"""Everything between a person and an `Experiment`: flags, TOML files, and what is refused.

Flags are made from the fields of `Cell` and `Experiment`: a new field is a new flag and a new TOML key. Where flags
and a file speak of the same setting, the flag holds, in every block of the file.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import transports
from cluster.model_servers import selection
from experiments.spec.experiment import PHOTOGRAPH, Experiment
from experiments.spec.settings import OWN, SETTINGS, Setting, cells_of, check, values_of
from partitioning.engine_table import is_remote
from transports.errors import UsageError

Values = Mapping[str, tuple[Any, ...]]

DESCRIPTION = """\
Time one model, split and carried in different ways, and compare each with the model run locally.
Every flag has a default, so the first example works as it stands."""

EPILOG = """\
a matrix:
  A comma in a flag marked * makes a matrix: every value is combined with every value of the other flags.
  --cut NAME,NAME is one cut, before those operations; --cut equal,balanced is a matrix of two, and so is
  --cut equal,NAME+NAME.
  A combination whose transport has no such codec is left out while the transport has another one; without --codec
  each transport uses its own (raw; rest: json).
  The local model (transport none, mode whole) is always added.

examples:
  python -m experiments.run --transport grpc --mode layer
  python -m experiments.run --transport none,rpyc,grpc --mode layer,submodel --runs 50 --out results/mine
  python -m experiments.run --transport none,grpc --mode submodel --cut equal,balanced --codec raw,tensorproto
  python -m experiments.run --transport grpc --max-message 8388608 --batch 1,8   # 8 photographs are 4.8 MB
  python -m experiments.run --mode submodel --kill node-1@20 --lease 1 --repeats 0,5
  python -m experiments.run --spec experiments/specs/seed-layer.toml --runs 5

a file for --spec (TOML; any flag's name is a key, a key marked * may be a list):
  runs = 50
  mode = ["layer", "submodel"]      # for every block below
  [[matrix]]                        # each block is a matrix of its own
  transport = "grpc"
  codec = ["raw", "tensorproto"]
  [[matrix]]
  transport = ["none", "rpyc"]
  [option]
  grpc.max_message = 4194304

exit status: 0 done; 1 the run failed; 2 a value cannot be used, and nothing was started."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "what carries the tensors": ("transport", "codec", "flow", "registry", "connections", "send"),
    "how the model is split": ("mode", "cut", "servers", "placement", "local_calls"),
    "how a stage is executed": ("engine", "batch", "threads", "workers"),
    "model and input": ("model", "weights", "input"),
    "limits and who may call": ("max_message", "timeout", "host", "insecure", "tls_cert", "tls_key", "tls_ca"),
    "nodes that die": ("replicas", "lease", "repeats", "kill"),
    "schedule": ("runs", "warmup", "order", "seed"),
}
"""Where `--help` shows which setting; one that is not listed is shown among the last."""


@dataclass(frozen=True)
class _Source:
    """What one place said: values of the experiment, values of cells by block, and options."""

    values: Values = field(default_factory=dict)
    blocks: tuple[Values, ...] = ({},)
    option: Mapping[str, str] = field(default_factory=dict)


def parse(argv: Sequence[str]) -> tuple[Experiment, Path]:
    """The experiment that `argv` asks for, and the folder for its results (nothing is created).

    The cells are those asked for; `Experiment.with_locals` adds what they are compared with.
    Raises `UsageError` for whatever cannot be used. `--help` prints and exits as argparse does.
    """
    given = _given(argv)
    spec = given.pop("spec", None)
    out = given.pop("out", None)
    file = _from_file(Path(spec)) if spec is not None else _Source()
    experiment = _combine(file, _from_flags(given))
    stem = Path(spec).stem if spec is not None else _short_name(experiment)
    return experiment, Path(out) if out is not None else Path("results") / f"{timestamp()}-{stem}"


def parser() -> argparse.ArgumentParser:
    """A parser whose namespace holds only what was given, as text."""
    made = _Parser(
        prog="python -m experiments.run",
        usage="python -m experiments.run [--transport NAME,...] [--mode NAME,...] [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    placed = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in SETTINGS if name not in placed)
    for title, names in {**GROUPS, "files and the rest": rest}.items():
        group = made.add_argument_group(title)
        for name in names:
            _add(group, SETTINGS[name])
    group.add_argument("--option", metavar="NAME.KEY=VALUE", action="append", help=_option_help())
    group.add_argument("--spec", metavar="FILE", action=_Once, help="take settings from a TOML file; flags override it")
    group.add_argument(
        "--out", metavar="FOLDER", action=_Once, help="where results go (default: results/<UTC timestamp>-<short name>)"
    )
    return made


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


class _Once(argparse.Action):
    """Stores a value, and refuses a second one: that the last one wins silently is a wrong experiment."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, "given twice; write several values with a comma")
        if values == "" and self.dest in ("spec", "out"):
            raise argparse.ArgumentError(self, "an empty value; give a path")
        setattr(namespace, self.dest, values)


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    default = "the bundled photograph" if setting.default == str(PHOTOGRAPH) else setting.default
    text = f"{setting.help} (default: {default if default != '' else 'none'})".replace("%", "%%")
    metavar = "|".join(setting.valid) if setting.valid else {int: "N", float: "SECONDS"}.get(setting.kind, "TEXT")
    # `--insecure` alone says as much as `--insecure on`.
    alone: Mapping[str, Any] = {"nargs": "?", "const": "on"} if setting.valid == ("on", "off") else {}
    starred = ("* " if setting.of_cell else "") + text
    group.add_argument(setting.flag, dest=setting.name, metavar=metavar, help=starred, action=_Once, **alone)


def _option_help() -> str:
    return (
        "what one transport or engine alone has, such as grpc.send=stream or rpyc.max_message=1000000, and of both "
        "engines that call model servers tfserving.binary=PROGRAM (none: ours) and tfserving.tensor_content=true; "
        "may be repeated"
    )


def _given(argv: Sequence[str]) -> dict[str, Any]:
    made = parser()
    namespace, unknown = made.parse_known_args(list(argv))
    if unknown:
        word = unknown[0].partition("=")[0]
        flags = [setting.flag for setting in SETTINGS.values()] + ["--option", "--spec", "--out", "--help"]
        raise UsageError(f"no flag {word!r}{transports.suggest(word, flags)}")
    return vars(namespace)


def _from_flags(given: Mapping[str, Any]) -> _Source:
    values = {
        name: values_of(SETTINGS[name], raw, SETTINGS[name].flag) for name, raw in given.items() if name in SETTINGS
    }
    return _source(values, ({},), transports.parse_options(given.get("option", ())))


def _source(values: Values, blocks: tuple[Values, ...], option: Mapping[str, str]) -> _Source:
    """Top-level values of cells become part of every block, whose own values hold against them."""
    shared = {name: value for name, value in values.items() if SETTINGS[name].of_cell}
    rest = {name: value for name, value in values.items() if not SETTINGS[name].of_cell}
    return _Source(rest, tuple({**shared, **block} for block in blocks), option)


def _from_file(path: Path) -> _Source:
    table = _load_toml(path)
    blocks = table.pop("matrix", [{}]) or [{}]
    option = table.pop("option", {})
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{path}: matrix: not a list of tables; write [[matrix]]")
    if not isinstance(option, dict):
        raise UsageError(f"{path}: option: no table; write [option]")
    values = _from_table(table, str(path))
    return _source(
        values, tuple(_block(block, path, number) for number, block in enumerate(blocks, 1)), _flat(option, path)
    )


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--spec: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--spec: {path} is no TOML: it is not UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--spec: {path} is no TOML: {error}") from error


def _block(block: Mapping[str, Any], path: Path, number: int) -> Values:
    where = f"{path}: [[matrix]] {number}"
    values = _from_table(block, where)
    for name in values:
        if not SETTINGS[name].of_cell:
            raise UsageError(
                f"{where}: {name}: one value for the whole experiment; write it above the first [[matrix]]"
            )
    return values


def _from_table(table: Mapping[str, Any], where: str) -> Values:
    values: dict[str, tuple[Any, ...]] = {}
    for key, raw in table.items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            raise UsageError(f"{where}: no setting {key!r}{transports.suggest(name, [*SETTINGS, 'matrix', 'option'])}")
        if name in values:
            raise UsageError(f"{where}: {name}: given twice, with underscore and with dash")
        values[name] = values_of(SETTINGS[name], raw, f"{where}: {name}")
    return values


def _flat(option: Mapping[str, Any], path: Path) -> dict[str, str]:
    """`{"grpc": {"max_message": 1}}` and `{"grpc.max_message": 1}` -> `{"grpc.max_message": "1"}`."""
    flat: dict[str, str] = {}
    for name, value in option.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in inner:
            full = f"{name}.{key}" if key else name
            if not isinstance(item, str | int | float) or not all(full.partition(".")):
                raise UsageError(f"{path}: option: {full!r} is not of the form NAME.KEY = VALUE")
            flat[full] = str(item)
    return flat


def _combine(file: _Source, flags: _Source) -> Experiment:
    over = flags.blocks[0]
    defaults = {name: (item.default,) for name, item in SETTINGS.items() if item.of_cell} | {"codec": (OWN,)}
    cells = cells_of({**defaults, **block, **over} for block in file.blocks)
    values = {name: value[0] for name, value in {**file.values, **flags.values}.items()}
    # What the file says of a transport, an engine or a mode that a flag has replaced is not the person's mistake.
    replaced = transports.NAMES.keys() - {cell.transport for cell in cells} if "transport" in over else set()
    if "engine" in over and not any(is_remote(cell.engine) for cell in cells):
        replaced |= {selection.OWNER}
    kept = {key: text for key, text in file.option.items() if key.partition(".")[0] not in replaced}
    blocks = [over] if "mode" in over else [{**block, **over} for block in file.blocks]
    cuts = [cut for block in blocks for cut in block.get("cut", ())]
    return check(Experiment(cells=cells, **values, option={**kept, **flags.option}), cuts)


def _short_name(experiment: Experiment) -> str:
    words = [*(cell.transport for cell in experiment.cells), *(cell.mode for cell in experiment.cells)]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(dict.fromkeys(words)).lower()).strip("-")[:60]


def timestamp() -> str:
    """Now, in UTC, as the names of results folders begin."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
