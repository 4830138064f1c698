"""Hosts, TLS and message limits of an experiment, from flags to real processes."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

import transports
from cluster.request import Request, Route
from cluster.result_receiver import ResultReceiver
from experiments import run
from experiments.spec.flags import parse
from experiments.spec.settings import to_record
from tests.transports.authority import Authority
from transports.errors import UsageError
from transports.limits import TLS_FILES

SECURED = [name for name in transports.NAMES if transports.kind(name).secure == "tls"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The three TLS flags and their files; the certificate names 127.0.0.1."""
    files = Authority(tmp_path_factory.mktemp("authority")).issue("127.0.0.1")
    return [word for name in TLS_FILES for word in (f"--{name.replace('_', '-')}", files[name])]


def test_a_shared_setting_reaches_every_transport_unless_an_option_overrides_it(tls: list[str]) -> None:
    argv = [
        "--transport",
        ",".join(SECURED),
        "--max-message",
        "1000",
        "--option",
        f"{SECURED[0]}.max_message=2000",
        *tls,
    ]
    options = parse(argv)[0].options
    made = {name: transports.make(name, options).options for name in SECURED}
    assert {name: limits.max_message for name, limits in made.items()} == {
        **dict.fromkeys(SECURED, 1000),
        SECURED[0]: 2000,
    }
    assert all(limits.tls for limits in made.values())


REFUSED = [
    (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
    (["--host", "no.such.host.invalid"], "is no address of this machine"),
    (["--tls-cert", "a.pem"], "tls_key and tls_ca missing"),
    (["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"], "cannot read a"),
    (["--max-message", "0"], "--max-message: 0 is too small; valid: 1 or more"),
    (["--max-message", "9999999999"], "valid: 1 to"),
    (["--insecure", "maybe"], "valid: on, off"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_unusable_hosts_certificates_and_limits_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(argv)
    assert message in str(error.value)


@pytest.mark.parametrize("words", [["--insecure"], ["--insecure", "on"]], ids=" ".join)
def test_insecure_allows_an_open_host_and_warns(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert parse(["--host", "0.0.0.0", *words])[0].host == "0.0.0.0"
    assert "0.0.0.0 can be reached from other machines" in caplog.text


def test_a_record_has_no_folder_of_the_certificates(tls: list[str]) -> None:
    record = json.dumps(to_record(parse(tls)[0]))
    assert str(Path(tls[1]).parent) not in record


def test_the_client_receives_outputs_at_the_host_of_the_experiment() -> None:
    receiver = ResultReceiver({"grpc": transports.make("grpc")}, "127.0.0.2")
    request = Request("r", Route("p", "eager", "grpc", flow="forward"), deadline=0.0)
    with contextlib.closing(receiver), receiver.expect(request, ["y"]) as awaited:
        assert awaited.request.reply_to.startswith("127.0.0.2:")


@pytest.mark.slow
def test_an_experiment_under_tls(
    tls: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--model",
        str(model),
        "--transport",
        ",".join(SECURED),
        "--mode",
        "submodel",
        "--flow",
        "nested,forward",
    ]
    flags += ["--servers", "2", "--runs", "2", "--engine", "frozen", "--out", str(tmp_path / "out"), *tls]
    assert run.main(flags) == 0, capsys.readouterr().err
    assert re.search(r"\| TLS +\| mutual \(", (tmp_path / "out" / "cells.md").read_text())


def test_a_message_above_the_limit_names_both_figures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(model), "--transport", "none", "--mode", "submodel", "--servers", "2"]
    assert run.main([*flags, "--max-message", "100", "--out", str(tmp_path / "out")]) == 1
    assert "take 768 bytes, above the limit of 100 bytes" in capsys.readouterr().err
