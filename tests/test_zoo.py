"""Models of `keras.applications`, each run once in a process of its own; all of them with `make test ARGS="-m zoo"`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from partitioning.models import application_names
from tools import zoo
from transports.errors import SplitbenchError

SMALL = "MobileNetV3Small"


@pytest.mark.zoo
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", application_names())
def test_a_model_runs_per_layer_and_per_submodel(name: str) -> None:
    row = dict(zip(zoo.HEAD, zoo.measured(name), strict=True))
    assert int(row["cuts"]) < int(row["operations"])
    assert 0 < float(row["narrow (MB)"]) <= float(row["equal (MB)"])


@pytest.mark.zoo
def test_a_row_is_measured_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(shutil.copy(zoo.PAGE, tmp_path))
    monkeypatch.setattr(zoo, "PAGE", page)
    before = zoo.rows_of(page.read_text())
    page.write_text(zoo.filled(page.read_text(), [[SMALL, *"000000"], *(before[name] for name in list(before)[:1])]))
    assert zoo.main([SMALL]) == 0
    after = zoo.rows_of(page.read_text())
    assert list(after) == [*list(before)[:1], SMALL]
    assert after[SMALL][:5] == [SMALL, "181", "64", "0.80", "0.08"]


@pytest.mark.slow
def test_a_model_that_fails_is_named_with_the_reason() -> None:
    with pytest.raises(SplitbenchError, match=r"none\.keras failed with status 2: error: none\.keras does not exist"):
        zoo.measured("none.keras")


def test_a_name_that_is_no_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["MobileNetV3Smal"]) == 2
    assert "did you mean 'MobileNetV3Small'?" in capsys.readouterr().err


def test_the_page_has_every_model_in_order() -> None:
    assert list(zoo.rows_of(zoo.PAGE.read_text(encoding="utf-8"))) == application_names()
