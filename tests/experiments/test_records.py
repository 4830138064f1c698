"""The record of an experiment in environment.json: complete, readable again, and without paths of the machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from experiments.sizes.measure import Study, Way
from experiments.spec.experiment import PHOTOGRAPH, Cell, Experiment
from experiments.spec.settings import from_record, to_record
from tests.experiments.common import EXPERIMENTS
from transports.errors import UsageError


@settings(max_examples=50, deadline=None)
@given(EXPERIMENTS)
def test_every_experiment_can_be_read_from_its_record(experiment: Experiment) -> None:
    assert from_record(json.loads(json.dumps(to_record(experiment)))) == experiment


def test_a_record_has_no_path_of_the_machine(tmp_path: Path) -> None:
    experiment = Experiment((Cell(),), input=str(tmp_path / "me.jpg"), model=str(tmp_path / "my.keras"))
    assert to_record(experiment)["input"] == "me.jpg"
    assert to_record(experiment)["model"] == "my.keras"
    assert to_record(replace(experiment, input=str(PHOTOGRAPH)))["input"] == "astronaut.jpg (bundled)"


def test_no_option_in_a_record_has_a_path_of_the_machine(tmp_path: Path) -> None:
    option = {
        "grpc.tls_key": str(tmp_path / "a folder" / "my.pem"),
        "tfserving.binary": f"wrapper --log={tmp_path}/mine.log",
        "grpc.max_message": "1000",
    }
    kept = {"grpc.tls_key": "my.pem", "tfserving.binary": "wrapper --log=mine.log", "grpc.max_message": "1000"}
    assert to_record(Experiment((Cell(),), option=option))["option"] == kept
    assert Study((Way("grpc"),), (4,), option=option).record()["option"] == kept


UNUSABLE: list[dict[str, object]] = [
    {},
    {"cells": 3},
    {"cells": [{"wheels": 4}]},
    *({"cells": [{}]} | more for more in ({"colour": "red"}, {"model": {}}, {"runs": "many"}, {"option": []})),
]


@pytest.mark.parametrize("record", UNUSABLE, ids=str)
def test_an_unusable_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="no record of an experiment"):
        from_record(record)
