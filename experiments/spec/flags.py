"""Makes experiments from flags and TOML files. A flag overrides the value of a file in every block of the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import transports
from cluster import hosts
from cluster.hosts import Host
from cluster.model_servers import selection
from experiments.spec.experiment import CELL_FIELDS, SETTINGS, Experiment
from experiments.spec.groups import FILES
from experiments.spec.settings import OWN, cells_of, check
from partitioning.engine_table import is_remote
from partitioning.errors import PartitionError
from partitioning.options import Option, Parser, option, options_of
from transports.errors import UsageError

Values = Mapping[str, tuple[Any, ...]]
listed = partial(option, group=FILES, min_length=1)

PROG = "python -m experiments.run"
DESCRIPTION = """\
Time one model, split and carried in different ways, and compare each with the model run locally.
Every flag has a default, so the first example works as it stands."""

EPILOG = """\
a matrix:
  A comma in a flag marked * makes a matrix: every value is combined with every value of the other flags.
  --cut NAME,NAME is one cut, before those operations; --cut equal,balanced is a matrix of two, and so is
  --cut equal,NAME+NAME.
  A combination is left out if its transport lacks the codec but has another one of the list; without --codec each
  transport uses its default (raw; rest: json).
  The local model (transport none, mode whole) is always added.

examples:
  %(prog)s --transport grpc --mode layer
  %(prog)s --transport none,rpyc,grpc --mode layer,submodel --runs 50 --out results/mine
  %(prog)s --transport none,grpc --mode submodel --cut equal,balanced --codec raw,tensorproto
  %(prog)s --transport grpc --max-message 8388608 --batch 1,8   # 8 photographs are 4.8 MB
  %(prog)s --mode submodel --kill node-1@20 --lease 1 --repeats 0,5
  %(prog)s --spec experiments/specs/seed-layer.toml --runs 5
  %(prog)s --spec experiments/specs/seed-layer.toml,experiments/specs/seed-submodel.toml

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
  [[host]]                          # the machines, as in a file for --hosts
  name = "edge"

exit status: 0 done; 1 the run failed, and what was measured is kept; 2 a value cannot be used; 130 interrupted."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that are not part of its experiment."""

    option: Annotated[
        tuple[str, ...],
        option(
            "an option of one transport or engine, such as grpc.send=stream or rpyc.max_message=1000000; for both "
            "engines that call model servers tfserving.binary=PROGRAM (none: the server of this package) and "
            "tfserving.tensor_content=true; may be repeated",
            *(FILES, "transports, model servers"),
            metavar="NAME.KEY=VALUE",
            repeat=True,
        ),
    ] = ()
    spec: Annotated[
        tuple[str, ...],
        listed("take settings from TOML files, which run one after the other; flags override them", metavar="FILE,..."),
    ] = ()
    out: Annotated[
        tuple[str, ...],
        listed(
            "where results go: a folder for each --spec file",
            metavar="FOLDER,...",
            shown="results/<UTC timestamp>-<short name>",
        ),
    ] = ()
    beside: Annotated[
        tuple[str, ...], listed("results folders whose tables are shown again before this run's", metavar="FOLDER,...")
    ] = ()


WORDS: Mapping[str, str] = {item.word: name for name, item in SETTINGS.items() if item.word}
"""Key in a TOML file -> name of the field, for options whose key differs from the name."""
FLAGS: Mapping[str, Option] = {**SETTINGS, **options_of(RunOptions)}
"""Every flag of a run by name."""


@dataclass(frozen=True)
class Runs:
    """The experiments of a command line, in order, each with the folder for its results."""

    experiments: tuple[tuple[Experiment, Path], ...]
    beside: tuple[Path, ...]
    """Results folders whose tables are shown together with the table of the first experiment."""
    rest: tuple[str, ...]
    """The command line for all experiments but the first; empty if there is only one experiment."""


def parse(argv: Sequence[str]) -> tuple[Experiment, Path]:
    """The first experiment that `argv` describes, and the folder for its results (`parse_runs`)."""
    return parse_runs(argv).experiments[0]


def parse_runs(argv: Sequence[str], prog: str = PROG, texts_of: tuple[str, str] | None = None) -> Runs:
    """The experiments that `argv` describes: one for each --spec file, or one without any. Nothing is created.

    The cells are the requested ones; `Experiment.with_locals` adds the local models with which they are compared.
    Raises `UsageError` for a value that cannot be used. `--help` prints and exits as argparse does; `texts_of`: the
    description and the epilog that it prints.
    """
    try:
        return runs_of(parser(prog, *(texts_of or (DESCRIPTION, EPILOG))).texts(argv))
    except PartitionError as error:
        raise UsageError(str(error)) from error


def runs_of(texts: Mapping[str, Any]) -> Runs:
    """`parse_runs` from the text of each given flag (`Parser.texts`). Raises `UsageError`."""
    try:
        given = {name: FLAGS[name].values(raw, FLAGS[name].flag) for name, raw in texts.items()}
        specs = given.get("spec", ("",))
        experiments = [_experiment(given, spec) for spec in specs]
    except PartitionError as error:
        raise UsageError(str(error)) from error
    stems = [Path(spec).stem or _short_name(one) for spec, one in zip(specs, experiments, strict=True)]
    folders = given.get("out") or dict.fromkeys(f"results/{timestamp()}-{stem}" for stem in stems)
    if len(folders) != len(specs):
        raise UsageError(
            f"--out: {len(folders)} folders for the results of {len(specs)} --spec files; give one for each"
        )
    first, *others = folders
    over = {"spec": specs[1:], "out": others, "beside": (*given.get("beside", ()), first)}
    words = [f"{FLAGS[name].flag}={','.join(values)}" for name, values in over.items()]
    words += [
        f"{FLAGS[name].flag}={text}"
        for name, raw in texts.items()
        if name not in over
        for text in (raw if isinstance(raw, list) else [raw])
    ]
    made = zip(experiments, map(Path, folders), strict=True)
    return Runs(tuple(made), tuple(map(Path, given.get("beside", ()))), tuple(words) if others else ())


def parser(prog: str = PROG, description: str = DESCRIPTION, epilog: str = EPILOG) -> Parser:
    """A parser with every flag of a run."""
    made = Parser(prog, description, epilog, f"{prog} [--transport NAME,...] [--mode NAME,...] [flags]")
    made.add_options(sorted(FLAGS.values(), key=lambda item: item.group == FILES), CELL_FIELDS)
    return made


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--spec: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"--spec: {path} is no TOML: {reason}") from error


def _experiment(given: Values, spec: str) -> Experiment:
    """The experiment of the file `spec`, if any, whose values the flags in `given` override."""
    table = _load_toml(Path(spec)) if spec else {}
    blocks, option = table.pop("matrix", [{}]) or [{}], table.pop("option", {})
    tables = {"host": table.pop("host")} if "host" in table else {}
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{spec}: matrix: not a list of tables; write [[matrix]]")
    if not isinstance(option, dict):
        raise UsageError(f"{spec}: option: no table; write [option]")
    top = _from_table(table, spec)
    flags = {name: values for name, values in given.items() if name in SETTINGS}
    written = []
    for number, block in enumerate(blocks, 1):
        where = f"{spec}: [[matrix]] {number}"
        values = _from_table(block, where)
        for name in values.keys() - CELL_FIELDS:
            raise UsageError(
                f"{where}: {name}: one value for the whole experiment; write it above the first [[matrix]]"
            )
        written.append({**top, **values, **flags})
    defaults = {name: (SETTINGS[name].default,) for name in CELL_FIELDS} | {"codec": (OWN,)}
    cells = cells_of({name: block.get(name, default) for name, default in defaults.items()} for block in written)
    single: dict[str, Any] = {
        name: values if SETTINGS[name].several else values[0]
        for name, values in {**top, **flags}.items()
        if name not in CELL_FIELDS
    }
    # A flag may replace the transport, engine or mode to which options or cuts of the file belong. That is no mistake
    # of the user: the file's options and cuts are then ignored.
    replaced = transports.NAMES.keys() - {cell.transport for cell in cells} if "transport" in flags else set()
    if "engine" in flags and not any(is_remote(cell.engine) for cell in cells):
        replaced |= {selection.OWNER}
    kept = {key: text for key, text in _flat(option, spec).items() if key.partition(".")[0] not in replaced}
    kept |= transports.parse_options(given.get("option", ()))
    cuts = [cut for block in ([flags] if "mode" in flags else written) for cut in block.get("cut", ())]
    machines = _machines(single.get("hosts", ""), tables, spec)
    return check(Experiment(cells=cells, **single, option=kept, machines=machines), cuts)


def _machines(given: str, tables: Mapping[str, Any], spec: str) -> tuple[Host, ...]:
    """The hosts of `--hosts`; without it, the hosts of the [[host]] tables in the file."""
    if given:
        return hosts.read(given)
    return hosts.of_tables(tables, spec) if tables else ()


def _from_table(table: Mapping[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    values: dict[str, tuple[Any, ...]] = {}
    for key, raw in table.items():
        name = WORDS.get(key, key.replace("-", "_"))
        if name not in SETTINGS:
            valid = [known for known in (*SETTINGS, "matrix", "option") if known != name]
            raise UsageError(f"{where}: no setting {key!r}{transports.suggest(name, valid)}")
        if name in values:
            raise UsageError(f"{where}: {name}: given twice, with underscore and with dash")
        values[name] = SETTINGS[name].values(raw, f"{where}: {name}")
    return values


def _flat(option: Mapping[str, Any], path: str) -> dict[str, str]:
    """`{"grpc": {"max_message": 1}}` and `{"grpc.max_message": 1}` -> `{"grpc.max_message": "1"}`."""
    flat: dict[str, str] = {}
    for name, value in option.items():
        for key, item in (value if isinstance(value, dict) else {"": value}).items():
            full = f"{name}.{key}" if key else name
            if not isinstance(item, str | int | float) or not all(full.partition(".")):
                raise UsageError(f"{path}: option: {full!r} is not of the form NAME.KEY = VALUE")
            flat[full] = str(item)
    return flat


def _short_name(experiment: Experiment) -> str:
    words = [*(cell.transport for cell in experiment.cells), *(cell.mode for cell in experiment.cells)]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(dict.fromkeys(words)).lower()).strip("-")[:60]


def timestamp() -> str:
    """The time now, in UTC, in the form with which names of results folders begin."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
