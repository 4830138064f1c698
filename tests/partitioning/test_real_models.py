"""Models of `keras.applications`, split into layers and into five groups read from files, answer as they do locally."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from partitioning import models
from partitioning.calibration import views
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import flat_outputs
from tests.partitioning.conftest import executables, run_chained
from tests.partitioning.test_archive import through_files

NAMES = ("MobileNetV3Large", pytest.param("EfficientNetV2B0", marks=pytest.mark.zoo), "NASNetMobile")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_split_equals_local(name: str, tmp_path: Path) -> None:
    loaded = models.load(name)
    program = read(loaded.model)
    images = loaded.preprocess(views(None, loaded.model.inputs[0].shape, seed=7))
    answers = flat_outputs(loaded.model, [images])[0]
    assert np.abs(answers[0] - answers[1]).sum() > 0.1, "two images have the same answer"
    layers = make_plan(program.graph, "layer")
    groups = make_plan(program.graph, "submodel", "equal", 5)
    local = flat_outputs(loaded.model, [images[:1]])[0]
    np.testing.assert_array_equal(run_chained(layers, executables("eager", program, layers), [images[:1]])[0], local)
    np.testing.assert_array_equal(run_chained(groups, through_files(program, groups, tmp_path), [images[:1]])[0], local)


def test_frozen_groups_equal_the_frozen_whole() -> None:
    loaded = models.load("MobileNetV3Large")
    program = read(loaded.model)
    images = loaded.preprocess(views(None, loaded.model.inputs[0].shape, seed=7)[:1])
    answers = {}
    for mode, groups in (("whole", 1), ("submodel", 5)):
        plan = make_plan(program.graph, mode, "equal", groups)
        answers[mode] = run_chained(plan, executables("frozen", program, plan), [images])[0]
    np.testing.assert_allclose(answers["submodel"], answers["whole"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answers["whole"], flat_outputs(loaded.model, [images])[0], rtol=1e-3, atol=1e-5)


def test_names_are_the_same_at_every_load() -> None:
    first, second = (read(models.load("MobileNetV3Small", seed=seed).model) for seed in (0, 0))
    assert first.graph == second.graph
    for name, step in first.steps.items():
        for one, other in zip(
            getattr(step.operation, "weights", ()), getattr(second.steps[name].operation, "weights", ()), strict=True
        ):
            np.testing.assert_array_equal(one, other)
