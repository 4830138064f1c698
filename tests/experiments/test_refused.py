"""Unusable values: each is refused in one line that gives the valid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.spec.flags import parse
from transports.errors import UsageError

LAYER, SUBMODEL = "experiments/specs/seed-layer.toml", "experiments/specs/seed-submodel.toml"

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
    (["--model", ""], "--model: an empty value; a name in keras.applications, or a .keras or .h5 file"),
    (["--input", " "], "--input: an empty value; an image, a folder of images"),
    (
        ["--scale", "imagnet"],
        "--scale: no scale 'imagnet'; did you mean 'imagenet'? valid: 0..255, 0..1, -1..1, imagenet",
    ),
    (["--scale", "-1..2"], "--scale: no scale '-1..2'; did you mean '-1..1'?"),
    (["--absent", ""], "--absent: an empty value; leave out an input"),
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
    (["--runs", "5", "--runs", "6"], "--runs: given twice; give it once"),
    (["--spec", f"{LAYER},{SUBMODEL}", "--out", "x"], "--out: 1 folders for the results of 2 --spec files"),
    (["--spec", f"{LAYER},./{LAYER}"], "--out: 1 folders for the results of 2 --spec files"),
    (["--spec", f"{LAYER},nowhere.toml"], "--spec: cannot read nowhere.toml"),
    (["--beside", ""], "--beside: an empty value; results folders whose tables are shown"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv)[:40] for argv, _ in REFUSED])
def test_a_flag_is_refused(argv: list[str], message: str) -> None:
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
    ("[[matrix]]\n[[matrix.matrix]]", "mine.toml: [[matrix]] 1: no setting 'matrix'; valid: "),
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
def test_a_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        parse(["--spec", str(tmp_path / "mine.toml")])
    assert message in str(refused.value).replace("(valid", "valid")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        parse(["--spec", str(tmp_path / "mine.toml")])
