"""Flags and files: what makes an experiment, and what each unusable value is answered with."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transports
from cluster.flows import FLOWS
from experiments.sizes.bench import Study, Way
from experiments.spec.experiment import CELL_FIELDS, PHOTOGRAPH, SETTINGS, Cell, Experiment, local_of
from experiments.spec.flags import parse, parser
from experiments.spec.settings import from_record, to_record
from transports.errors import UsageError


def cells(*argv: str) -> list[Cell]:
    return list(parse(argv)[0].cells)


def spec(folder: Path, text: str, *argv: str) -> Experiment:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return parse(["--spec", str(path), *argv])[0]


def test_the_first_line_of_the_documentation_works_alone() -> None:
    experiment, folder = parse(["--transport", "grpc", "--mode", "layer"])
    assert experiment == Experiment((Cell(),))
    assert folder.parent == Path("results")
    stamp, _, name = folder.name.partition("-")
    assert len(stamp) == len("20260102T030405Z")
    assert name == "grpc-layer"
    assert not folder.exists()


def test_every_field_is_a_flag_with_help_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # or a word with a hyphen may be broken
    text = " ".join(parser().format_help().split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in text
        assert f"(default: {setting.default if setting.default != '' else 'none'})" in text or setting.name == "input"
    assert {item.name for item in (*fields(Cell), *fields(Experiment))} == {*SETTINGS, "cells", "option"}


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert str(PHOTOGRAPH) not in out


def test_a_comma_makes_a_matrix() -> None:
    made = cells("--transport", "none, grpc", "--mode", "layer,submodel", "--batch", "1,8")
    assert len(made) == 8
    assert {(cell.transport, cell.mode, cell.batch) for cell in made} == {
        (transport, mode, batch) for transport in ("none", "grpc") for mode in ("layer", "submodel") for batch in (1, 8)
    }


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("equal", ["equal"]),
        ("equal,balanced", ["equal", "balanced"]),
        ("add_1,add_2", ["add_1+add_2"]),
        ("add_1", ["add_1"]),
        ("equal,add_1+add_2", ["equal", "add_1+add_2"]),
        ("a+b, c+d", ["a+b", "c+d"]),
    ],
)
def test_cut(text: str, cuts: list[str]) -> None:
    assert [cell.cut for cell in cells("--mode", "submodel", "--cut", text)] == cuts


def test_a_cut_leaves_the_other_modes_alone() -> None:
    made = cells("--mode", "layer,submodel", "--cut", "equal,balanced")
    assert [(cell.mode, cell.cut) for cell in made] == [
        ("layer", "equal"),
        ("submodel", "equal"),
        ("submodel", "balanced"),
    ]


def test_whole_lies_on_one_server_and_has_no_neighbours() -> None:
    argv = ["--mode", "whole", "--servers", "2,5", "--placement", "contiguous,round-robin", "--local-calls", "on,off"]
    assert cells("--transport", "grpc", *argv) == [Cell("grpc", "whole", servers=1)]
    assert cells("--transport", "none", *argv, "--registry", "per-hop") == [local_of(Cell())]


def test_a_codec_that_a_transport_lacks_is_left_out_while_it_has_another() -> None:
    made = cells("--transport", "none,rpyc,grpc", "--codec", "raw,tensorproto")
    assert [(cell.transport, cell.codec) for cell in made] == [
        ("none", "raw"),
        ("rpyc", "raw"),
        ("grpc", "raw"),
        ("grpc", "tensorproto"),
    ]


def test_the_codecs_are_those_of_the_transports() -> None:
    found = dict.fromkeys(codec for name in transports.NAMES for codec in transports.load(name).codecs)
    assert SETTINGS["codec"].valid == tuple(found)


@pytest.mark.parametrize(
    ("argv", "made"),
    [
        (["--transport", "rest"], ["rest/json"]),
        (["--transport", "none,grpc,rest"], ["none/raw", "grpc/raw", "rest/json"]),
        (["--transport", "grpc,rest", "--codec", "raw,json-b64"], ["grpc/raw", "rest/json-b64"]),
        (["--transport", "rest", "--codec", "json,json-b64"], ["rest/json", "rest/json-b64"]),
        (["--transport", "none,rest", "--codec", "json-b64"], ["none/raw", "rest/json-b64"]),
    ],
)
def test_a_transport_uses_its_own_codec_unless_one_is_named(argv: list[str], made: list[str]) -> None:
    assert [f"{cell.transport}/{cell.codec}" for cell in cells(*argv)] == made


REFUSED = [
    (["--transport", "gprc"], "--transport: no transport 'gprc'; did you mean 'grpc'? valid: none, rpyc"),
    (["--mode", "layers"], "--mode: no mode 'layers'; did you mean 'layer'? valid: whole, layer, submodel"),
    (["--mode", "layer,"], "--mode: no mode ''; valid: whole"),
    (["--engine", "lazy"], "--engine: no engine 'lazy'; valid: eager"),
    (["--placement", "robin"], "--placement: no placement 'robin'; did you mean 'round-robin'?"),
    (["--local-calls", "maybe"], "--local-calls: no local_calls 'maybe'; valid: on, off"),
    (["--order", "random"], "--order: no order 'random'; valid: shuffled, blocked"),
    (["--weights", "mine"], "--weights: no weights 'mine'; valid: random, imagenet"),
    (["--runs", "0"], "--runs: 0 is too small; valid: 1 to 10000000"),
    (["--runs", "5,6"], "--runs: '5,6' is no whole number; valid: 1 to 10000000"),
    (["--runs", "9" * 5000], "is no whole number"),
    (["--warmup", "-1"], "--warmup: -1 is too small; valid: 0 to 10000000"),
    (["--batch", "1,0"], "--batch: 0 is too small; valid: 1 to 1000000"),
    (["--batch", "1,x"], "--batch: 'x' is no whole number"),
    (["--servers", "0"], "--servers: 0 is too small; valid: 1 or more"),
    (["--workers", "-1"], "--workers: -1 is too small; valid: 0 to 65536"),
    (["--threads", "1.5"], "--threads: '1.5' is no whole number"),
    (["--seed", "-1"], "--seed: -1 is too small; valid: 0 to 4294967295"),
    (["--seed", str(2**32)], "--seed: 4294967296 is too large; valid: 0 to 4294967295"),
    (["--batch", "100000000"], "--batch: 100000000 is too large; valid: 1 to 1000000"),
    (["--replicas", "100000"], "--replicas: 100000 is too large; valid: 1 to 64"),
    (["--concurrency", "1,1000000"], "--concurrency: 1000000 is too large; valid: 1 to 256"),
    (["--runs", "9" * 4000], "is too large; valid: 1 to 10000000"),
    (["--threads", "100000"], "--threads: 100000 is too large; valid: 0 to 1024"),
    (["--workers", "1000000"], "--workers: 1000000 is too large; valid: 0 to 65536"),
    (["--lease", "1e300"], "--lease: 1e+300 is too large; valid: 0.2 to 86400 seconds"),
    (["--timeout", "1e300"], "--timeout: 1e+300 is too large; valid: more than 0, up to 86400 seconds"),
    (["--timeout", "0"], "--timeout: 0 is too small; valid: more than 0, up to 86400 seconds"),
    (["--timeout", "nan"], "--timeout: 'nan' is no number"),
    (["--timeout", "inf"], "--timeout: 'inf' is no number"),
    (["--timeout", "1e999"], "--timeout: '1e999' is no number"),
    (["--model", ""], "--model: an empty value; a name in keras.applications, or a .keras file"),
    (["--input", " "], "--input: an empty value; an image file"),
    (["--out", ""], "--out: an empty value; where results go"),
    (["--cut", "equal,add"], "--cut: 'equal,add' mixes cuts and operations; join the operations of one cut with '+'"),
    (["--cut", "add,,mul", "--mode", "submodel"], "--cut: 'add++mul' has an empty operation name in it"),
    (["--cut", "balanced"], "--cut: no cell is of mode submodel, and only that mode is cut"),
    (
        ["--transport", "rpyc", "--codec", "tensorproto"],
        "codec: transport 'rpyc' has no codec 'tensorproto'; valid: raw",
    ),
    (
        ["--transport", "rest", "--codec", "raw"],
        "codec: transport 'rest' has no codec 'raw'; valid: json, json-b64",
    ),
    (["--option", "grpc"], "--option 'grpc': give NAME.KEY=VALUE"),
    (
        ["--option", "rpyc.max_message=5"],
        "--option rpyc.max_message: no transport 'rpyc' in this experiment; did you mean",
    ),
    (["--option", "grpc.max_mesage=5"], "'max_mesage'; did you mean 'max_message'?"),
    (["--option", "grpc.max_message=lots"], "--option grpc.max_message=lots: 'lots' is no int"),
    (["--option", "grpc.max_message=0"], "--option grpc.max_message: 0 bytes cannot be a limit; valid: 1 to"),
    (["--trasport", "grpc"], "no flag '--trasport'; did you mean '--transport'?"),
    (["--trans", "grpc"], "no flag '--trans'"),
    (["grpc"], "no flag 'grpc'"),
    (["--runs"], "--runs: expected one argument"),
    (["--transport", "grpc", "--transport", "rpyc"], "--transport: given twice; write several values with a comma"),
    (["--spec", "nowhere.toml"], "--spec: cannot read nowhere.toml: No such file or directory"),
    (["--spec", "."], "--spec: cannot read .: Is a directory"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv)[:40] for argv, _ in REFUSED])
def test_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(argv)
    assert message in str(refused.value).replace("(valid", "valid")
    assert "\n" not in str(refused.value)


TOML_REFUSED = [
    ("runs = 1\ntransport = \n", "mine.toml is no TOML: Invalid value (at line 2, column 13)"),
    ("runs = 1\nruns = 2\n", "mine.toml is no TOML: Cannot overwrite a value (at line 2"),
    ("x = " + "[" * 5000, "mine.toml is no TOML"),
    ("trnsport = 'grpc'", "mine.toml: no setting 'trnsport'; did you mean 'transport'?"),
    ("out = 'x'", "mine.toml: no setting 'out'"),
    ("runs = '5'\nmode = 7", "mine.toml: mode: 7 is no text; write it in quotes"),
    ("runs = true", "mine.toml: runs: True is no whole number"),
    ("runs = [1, 2]", "mine.toml: runs: [1, 2] is no whole number"),
    ("batch = []", "mine.toml: batch: an empty list; give at least one value"),
    ("local-calls = true", "mine.toml: local_calls: True is no text"),
    ("local-calls = 'on'\nlocal_calls = 'off'", "mine.toml: local_calls: given twice, with underscore and with dash"),
    ("timeout = inf", "mine.toml: timeout: inf is no number"),
    ("cut = []", "mine.toml: cut: an empty value; where submodels are cut"),
    ("matrix = 3", "mine.toml: matrix: not a list of tables; write [[matrix]]"),
    ("[matrix]\nbatch = 1", "mine.toml: matrix: not a list of tables; write [[matrix]]"),
    (
        "[[matrix]]\nbatch = 1\n[[matrix]]\nruns = 5",
        "mine.toml: [[matrix]] 2: runs: one value for the whole experiment",
    ),
    ("[[matrix]]\nmode = 'leyer'", "mine.toml: [[matrix]] 1: mode: no mode 'leyer'; did you mean 'layer'?"),
    ("option = 1", "mine.toml: option: no table; write [option]"),
    ("[option]\ngrpc = 1", "mine.toml: option: 'grpc' is not of the form NAME.KEY = VALUE"),
    ("[option]\ngrpc.max_message = [1]", "mine.toml: option: 'grpc.max_message' is not of the form"),
    ("[option]\nrpyc.max_message = 1", "--option rpyc.max_message: no transport 'rpyc' in this experiment"),
]


@pytest.mark.parametrize(("text", "message"), TOML_REFUSED, ids=[text[:30] for text, _ in TOML_REFUSED])
def test_toml_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        spec(tmp_path, text)
    assert message in str(refused.value).replace("(valid", "valid")
    assert "\n" not in str(refused.value)


def test_toml_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        parse(["--spec", str(tmp_path / "mine.toml")])


BLOCKS = """
title = "two blocks, with a comma"
runs = 7
timeout = 5
mode = ["layer", "submodel"]
local-calls = "off"
[[matrix]]
transport = "grpc"
codec = ["raw", "tensorproto"]
[[matrix]]
transport = "none,rpyc"
mode = "layer"
[option]
grpc.max_message = 1000
"rpyc.max_message" = 2000
"""


def test_blocks_inherit_what_stands_above_them(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS)
    assert made.title == "two blocks, with a comma"
    assert (made.runs, made.timeout) == (7, 5.0)
    assert made.option == {"grpc.max_message": "1000", "rpyc.max_message": "2000"}
    assert {cell.local_calls for cell in made.cells} == {"off"}
    assert [(cell.transport, cell.mode, cell.codec) for cell in made.cells] == [
        ("grpc", "layer", "raw"),
        ("grpc", "layer", "tensorproto"),
        ("grpc", "submodel", "raw"),
        ("grpc", "submodel", "tensorproto"),
        ("none", "layer", "raw"),
        ("rpyc", "layer", "raw"),
    ]


def test_flags_override_the_file_in_every_block(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS, "--runs", "9", "--mode", "submodel", "--local-calls", "on")
    assert made.runs == 9
    assert {(cell.mode, cell.local_calls) for cell in made.cells} == {("submodel", "on")}
    assert {cell.transport for cell in made.cells} == {"grpc", "none", "rpyc"}


def test_options_of_a_transport_that_a_flag_replaced_are_no_mistake(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS, "--transport", "grpc", "--option", "grpc.max_message=3000")
    assert made.option == {"grpc.max_message": "3000"}


def test_a_cut_of_the_file_is_no_mistake_where_a_flag_replaced_the_mode(tmp_path: Path) -> None:
    text = "mode = 'submodel'\ncut = 'narrow'"
    assert spec(tmp_path, text, "--mode", "layer").cells == (Cell(),)
    assert [cell.cut for cell in spec(tmp_path, text, "--mode", "layer,submodel").cells] == ["equal", "narrow"]
    for words in (["--mode", "layer", "--cut", "narrow"], ["--cut", "balanced"]):
        with pytest.raises(UsageError, match="no cell is of mode submodel"):
            spec(tmp_path, text.replace("submodel", "layer"), *words)


def test_the_folder_is_named_by_the_file(tmp_path: Path) -> None:
    (tmp_path / "seed-layer.toml").write_text("", encoding="utf-8")
    experiment, folder = parse(["--spec", str(tmp_path / "seed-layer.toml")])
    assert experiment == Experiment((Cell(),))
    assert folder.name.endswith("-seed-layer")


def test_an_empty_list_of_blocks_is_one_block(tmp_path: Path) -> None:
    assert spec(tmp_path, "matrix = []").cells == (Cell(),)


CELLS = st.builds(
    Cell,
    transport=st.sampled_from(["none", "grpc"]),
    mode=st.sampled_from(["layer", "submodel"]),
    engine=st.sampled_from(["eager", "graph"]),
    batch=st.integers(1, 64),
    servers=st.integers(1, 64),
    placement=st.sampled_from(["contiguous", "round-robin"]),
    local_calls=st.sampled_from(["on", "off"]),
    send=st.sampled_from(["bundle", "tensor"]),
)
EXPERIMENTS = st.builds(
    Experiment,
    cells=st.tuples(CELLS),
    title=st.text(st.characters(codec="ascii", min_codepoint=33), max_size=20),
    runs=st.integers(1, 10**6),
    seed=st.integers(0, 2**32 - 1),
    timeout=st.floats(1e-3, 86_400),
    option=st.just({}) | st.fixed_dictionaries({"none.max_message": st.integers(1, 10**9).map(str)}),
)


@settings(max_examples=50, deadline=None)
@given(EXPERIMENTS)
def test_flags_say_every_experiment(experiment: Experiment) -> None:
    values = {item: getattr(experiment.cells[0], item) for item in CELL_FIELDS}
    values |= {item: getattr(experiment, item) for item in SETTINGS if item not in CELL_FIELDS}
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    argv += [f"--option={key}={text}" for key, text in experiment.option.items()]
    assert parse(argv)[0] == experiment


@settings(max_examples=50, deadline=None)
@given(EXPERIMENTS)
def test_a_record_says_every_experiment(experiment: Experiment) -> None:
    assert from_record(json.loads(json.dumps(to_record(experiment)))) == experiment


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([setting.flag for setting in SETTINGS.values()] + ["--option"]), st.text())
def test_whatever_is_written_is_used_or_refused(flag: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse([f"{flag}={text}"])[0].cells


def test_a_record_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    experiment = Experiment((Cell(),), input=str(tmp_path / "me.jpg"), model=str(tmp_path / "my.keras"))
    assert to_record(experiment)["input"] == "me.jpg"
    assert to_record(experiment)["model"] == "my.keras"
    assert to_record(replace(experiment, input=str(PHOTOGRAPH)))["input"] == "astronaut.jpg (bundled)"


def test_no_option_tells_a_path_of_the_machine(tmp_path: Path) -> None:
    option = {
        "grpc.tls_key": str(tmp_path / "a folder" / "my.pem"),
        "tfserving.binary": f"wrapper --log={tmp_path}/mine.log",
        "grpc.max_message": "1000",
    }
    kept = {"grpc.tls_key": "my.pem", "tfserving.binary": "wrapper --log=mine.log", "grpc.max_message": "1000"}
    assert to_record(Experiment((Cell(),), option=option))["option"] == kept
    assert Study((Way("grpc"),), (4,), option=option).record()["option"] == kept


@pytest.mark.parametrize("record", [{}, {"cells": 3}, {"cells": [{"wheels": 4}]}, {"cells": [], "colour": "red"}])
def test_what_is_no_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="no record of an experiment"):
        from_record(record)


def test_help_imports_no_library_that_is_not_chosen() -> None:
    code = "import sys, experiments.spec.flags as f; f.parse(['--transport', 'none']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "grpc", "rpyc", "h11", "orjson", "matplotlib", "pandas"} & set(done.stdout.split())


SPECS = sorted((Path(__file__).parents[2] / "experiments" / "specs").glob("*.toml"))


@pytest.mark.parametrize("path", SPECS, ids=[path.stem for path in SPECS])
def test_the_files_that_come_along_can_be_used(path: Path) -> None:
    assert parse(["--spec", str(path)])[0].cells


@pytest.mark.parametrize("name", ["wire", "flows"])
def test_files_that_are_read_beside_each_other_name_one_cut(name: str) -> None:
    """A search measures costs anew for each engine and each run: other cuts, other bytes."""
    cuts = {
        cell.cut
        for path in SPECS
        if path.stem in (name, "tuned-submodel")
        for cell in parse(["--spec", str(path)])[0].cells
    }
    assert len(cuts) == 1
    assert "+" in cuts.pop()


def test_every_flow_is_compared_over_every_plain_transport() -> None:
    (path,) = (path for path in SPECS if path.stem == "flows")
    compared = parse(["--spec", str(path)])[0].cells
    assert {cell.flow for cell in compared} == set(FLOWS)
    assert len({(cell.transport, cell.flow) for cell in compared}) == len(compared) == 3 * len(FLOWS)
    assert len({replace(cell, transport="none", flow="nested") for cell in compared}) == 1
