"""Real models, each run once in a process of its own; all of them with `make test ARGS="-m zoo"`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import zoo
from transports.errors import SplitbenchError

APPLICATIONS, FAMILIES = zoo.ZOOS
SMALL = "MobileNetV3Small"


@pytest.mark.zoo
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", APPLICATIONS.names())
def test_a_model_runs_per_layer_and_per_submodel(name: str) -> None:
    row = dict(zip(APPLICATIONS.head, APPLICATIONS.measured(name), strict=True))
    assert int(row["cuts"]) < int(row["operations"])
    assert 0 < float(row["narrow (MB)"]) <= float(row["equal (MB)"])


@pytest.mark.zoo
@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_family_runs_in_other_processes_eager_and_frozen(name: str) -> None:
    assert FAMILIES.measured(name) == FAMILIES.rows_of(zoo.PAGE.read_text(encoding="utf-8"))[name]


@pytest.mark.zoo
def test_a_row_is_measured_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(shutil.copy(zoo.PAGE, tmp_path))
    monkeypatch.setattr(zoo, "PAGE", page)
    before, families = (one.rows_of(page.read_text()) for one in zoo.ZOOS)
    others = [before[name] for name in list(before)[:1]]
    page.write_text(APPLICATIONS.filled(page.read_text(), [[SMALL, *"000000"], *others]))
    assert zoo.main([SMALL]) == 0
    after = APPLICATIONS.rows_of(page.read_text())
    assert list(after) == [*list(before)[:1], SMALL]
    assert after[SMALL][:5] == [SMALL, "181", "64", "0.80", "0.08"]
    assert FAMILIES.rows_of(page.read_text()) == families


@pytest.mark.slow
def test_a_model_that_fails_is_named_with_the_reason() -> None:
    with pytest.raises(SplitbenchError, match=r"none\.keras failed with status 2: error: none\.keras does not exist"):
        APPLICATIONS.measured("none.keras")


def test_a_name_that_is_no_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["MobileNetV3Smal"]) == 2
    assert "did you mean 'MobileNetV3Small'?" in capsys.readouterr().err


@pytest.mark.parametrize("one", zoo.ZOOS, ids=lambda one: one.mark)
def test_the_page_has_every_model_in_order(one: zoo.Zoo) -> None:
    assert list(one.rows_of(zoo.PAGE.read_text(encoding="utf-8"))) == one.names()
