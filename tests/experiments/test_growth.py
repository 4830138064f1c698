"""Exponents and fitted parts, against known curves and numpy's fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sizes.growth import Curve, exponent, fit

SIZES = (0.01, 0.1, 1.0, 4.0, 16.0, 64.0)
PART = st.just(0.0) | st.floats(1e-4, 1.0)


def test_an_exponent_is_a_least_squares_slope() -> None:
    points = [(1, 3.0), (2, 5.0), (4, 19.0), (9, 80.0)]
    slope, _ = np.polyfit(np.log([x for x, _ in points]), np.log([y for _, y in points]), 1)
    assert exponent(points) == pytest.approx(slope)
    assert math.isnan(exponent(points[:1]))


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_exponent_of_a_power_is_that_power(power: int) -> None:
    assert exponent([(size, 0.3 * size**power) for size in SIZES]) == pytest.approx(power, abs=1e-12)


def seconds(curve: Curve, size: float) -> float:
    return curve.fixed + curve.linear * size + curve.quadratic * size**2


@given(st.builds(Curve, st.floats(1e-4, 1.0), PART, PART))
def test_the_fit_recovers_a_curve(curve: Curve) -> None:
    found = fit([(size, seconds(curve, size)) for size in SIZES])
    assert found is not None
    for size in SIZES:
        assert seconds(found, size) == pytest.approx(seconds(curve, size), rel=1e-6)
    assert found.quadratic_share(64) == pytest.approx(curve.quadratic_share(64), abs=1e-6)


def test_no_part_is_negative() -> None:
    """The growth is less than linear: plain least squares would give a negative quadratic part."""
    found = fit([(size, 0.1 * size**0.7) for size in SIZES])
    assert found is not None
    assert found.quadratic == 0
    assert min(found.fixed, found.linear) > 0


def test_a_linear_growth_has_no_other_part() -> None:
    found = fit([(size, 0.3 * size) for size in SIZES])
    assert found is not None
    assert (found.fixed, found.quadratic) == (0, 0)


def test_three_points_are_too_few() -> None:
    assert fit([(1, 1.0), (2, 2.0), (4, 4.0)]) is None
