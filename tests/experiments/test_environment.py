"""environment.json: its entries, the entries that it must not have, and atomic updates."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from pathlib import Path

import pytest

from cluster import facts
from cluster.errors import ClusterDown
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.paths import anonymous
from experiments.spec.settings import from_record
from experiments.store import environment, files
from experiments.store.files import WriteError
from transports.errors import UsageError

EXPERIMENT = Experiment((Cell(),), runs=3, option={"grpc.max_message": "1000"})


def test_a_run_is_incomplete_until_it_is_finished(tmp_path: Path) -> None:
    environment.begin(tmp_path, EXPERIMENT, ["--runs", "3"], {"intra_op": 2})
    first = environment.read(tmp_path)
    assert first["complete"] is False
    assert "did not finish" in first["failure"]
    assert first["ended"] is None
    assert first["threads"] == {"intra_op": 2}
    environment.update(tmp_path, note="half way")
    environment.finish(tmp_path)
    last = environment.read(tmp_path)
    assert last["complete"] is True
    assert last["failure"] == ""
    assert last["note"] == "half way"
    assert len(last["load_at_end"]) == 3
    assert first["started"] <= last["ended"]
    assert from_record(last["experiment"]) == EXPERIMENT
    assert [path.name for path in tmp_path.iterdir()] == [files.ENVIRONMENT]


def test_a_failure_is_kept_without_its_paths(tmp_path: Path) -> None:
    environment.begin(tmp_path, EXPERIMENT, [])
    environment.finish(tmp_path, f"cannot write {tmp_path}/samples.csv: No space left on device")
    record = environment.read(tmp_path)
    assert record["complete"] is False
    assert record["failure"] == "cannot write samples.csv: No space left on device"


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    environment.begin(tmp_path, EXPERIMENT, [])
    with pytest.raises(UsageError, match="already holds an experiment"):
        environment.begin(tmp_path, EXPERIMENT, [])


def test_the_record_does_not_identify_user_or_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my-very-own-host")
    monkeypatch.setenv("GRPC_TRACE_TO", f"{tmp_path}/trace:my-very-own-host")
    monkeypatch.setenv("TF_XLA_FLAGS", "--dump=/home/somebody/dump --level=2")
    monkeypatch.setenv("TF_VAR_password", "hush")
    monkeypatch.setenv("TF_TOKEN_example_com", "hush")
    argv = [
        "--out",
        str(tmp_path / "mine"),
        f"--input={tmp_path}/me.jpg",
        "~/x.keras",
        "--option",
        "grpc.max_message=1",
    ]
    environment.begin(tmp_path, EXPERIMENT, argv)
    text = (tmp_path / files.ENVIRONMENT).read_text()
    for secret in ("my-very-own-host", "somebody", "hush", str(tmp_path), str(Path.home()) + "/", str(Path.cwd())):
        assert secret not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text
    record = json.loads(text)
    assert record["command"] == ["--out", "mine", "--input=me.jpg", "x.keras", "--option", "grpc.max_message=1"]
    assert record["variables"]["GRPC_TRACE_TO"] == "trace:localhost"
    assert record["variables"]["TF_XLA_FLAGS"] == "--dump=dump --level=2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none/layer/nested/eager/raw/b1/s5", "none/layer/nested/eager/raw/b1/s5"),
        ("deviates by 1/3", "deviates by 1/3"),
        ("127.0.0.1:5000 is gone", "127.0.0.1:5000 is gone"),
        ("no file '/home/me/a b.jpg'", "no file 'a b.jpg'"),
        ("(/etc/passwd)", "(passwd)"),
        ("mine/results", "mine/results"),
        ("~no-such-user/mine", "mine"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_anonymous(text: str, expected: str) -> None:
    assert anonymous(text) == expected


def test_paths_below_the_working_directory_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert anonymous(f"--out={Path.cwd()}/results/mine") == "--out=results/mine"


def test_collected_entries() -> None:
    versions = facts.versions()
    assert re.match(r"3\.\d+", str(versions["python"]))
    assert versions["numpy"]
    processor = facts.processor()
    assert processor["logical_cores"] == os.cpu_count()
    assert 1 <= processor["affinity"] <= processor["logical_cores"]
    assert processor["model"]
    commit = environment.collect_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}", commit["commit"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[]", "is no record"),
        ("{}", "is no record"),
        ("[" * 10**5, "is no JSON"),
        ('{"a": 1}', "lacks"),
        ('{"complete": true, "failure": "", "experiment": {}, "versions": 3}', "versions holds no entries"),
    ],
)
def test_a_foreign_record_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / files.ENVIRONMENT).write_text(text)
    with pytest.raises(UsageError, match=message):
        environment.read(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*; give a folder that an experiment wrote"):
        environment.read(tmp_path)
    with pytest.raises(WriteError, match="cannot write"):
        environment.begin(tmp_path / "nowhere", EXPERIMENT, [])


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KeyboardInterrupt(), "it was interrupted"),
        (ClusterDown("node-1 was ended by SIGKILL"), "node-1 was ended by SIGKILL"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("OOM when allocating a tensor"), "RuntimeError: OOM when allocating a tensor"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_record_names_the_cause_of_the_end(tmp_path: Path, error: BaseException, cause: str) -> None:
    environment.begin(tmp_path, EXPERIMENT, [])
    salvaged: list[str] = []
    with pytest.raises(type(error)), environment.finishing(tmp_path, lambda: salvaged.append("report")):
        raise error
    record = environment.read(tmp_path)
    assert (record["complete"], record["failure"]) == (False, cause)
    assert salvaged == ["report"]


def test_an_error_of_the_report_does_not_hide_the_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def salvage() -> None:
        raise UsageError("cannot read samples.csv")

    environment.begin(tmp_path, EXPERIMENT, [])
    with pytest.raises(ClusterDown, match="node-1"), environment.finishing(tmp_path, salvage):
        raise ClusterDown("node-1 was ended by SIGKILL")
    assert "cannot read samples.csv" in caplog.text
    assert environment.read(tmp_path)["failure"] == "node-1 was ended by SIGKILL"
