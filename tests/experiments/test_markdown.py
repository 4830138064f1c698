"""Numbers and tables as Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reports.markdown import ABSENT, count, line, number, table
from tests.experiments.common import tables_of


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.548634, 5, "0.54863"),
        (4.5065, 5, "4.5065"),
        (1.42, 5, "1.4200"),
        (12345.678, 5, "12346"),
        (1234567.0, 5, "1234600"),
        (0.000012345678, 5, "0.000012346"),
        (9.99999, 3, "10.0"),
        (-0.5, 2, "-0.50"),
        (0.0, 5, "0"),
        (float("nan"), 5, ABSENT),
        (float("inf"), 5, ABSENT),
    ],
)
def test_number(value: float, digits: int, expected: str) -> None:
    assert number(value, digits) == expected


@given(st.floats(1e-12, 1e12), st.integers(2, 9))
def test_a_number_keeps_its_significant_digits(value: float, digits: int) -> None:
    text = number(value, digits)
    assert "e" not in text.lower()
    assert float(text) == pytest.approx(value, rel=0.6 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("value", "expected"), [(41, "41"), (40.5, "40.5"), (0, "0"), (100, "100"), (1.5e6, "1500000")]
)
def test_count(value: float, expected: str) -> None:
    assert count(value) == expected


@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), max_size=4))
def test_no_text_escapes_its_cell(rows: list[list[str]]) -> None:
    lines = table(["a", "b"], [[line(text) for text in row] for row in rows])
    (found,) = tables_of("\n".join(lines))
    assert len(found) == len(rows) + 1
    assert all(len(row) == 2 for row in found)
