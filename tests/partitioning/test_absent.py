"""Optional inputs that are left out: which inputs may be absent, and how the graph changes."""

from __future__ import annotations

from collections.abc import Callable

import keras
import pytest
from keras import layers

from partitioning.errors import PartitionError
from partitioning.program import read
from tests.kinds import Offset, optional


def test_absent_inputs_are_neither_in_the_graph_nor_at_the_client() -> None:
    program = read(optional(), absent=["mask", "shift"])
    assert program.client is not None
    assert [info.name for info in program.client.inputs] == ["x"]
    assert program.client.structure == {"x": "x", "more": [None, None]}
    assert program.graph.inputs == ("x",)
    assert "inner/wide" in program.steps  # a nested model is flattened, with an absent input too


def needed() -> keras.Model:
    """An optional input that a layer and the outputs need."""
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y", optional=True)
    return keras.Model([x, y], [layers.Dense(3, name="dense")(y), Offset()(x)])


def given_back() -> keras.Model:
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y", optional=True)
    return keras.Model([x, y], [layers.Dense(3)(x), y])


def alone() -> keras.Model:
    return keras.Model(y := keras.Input((4,), name="y", optional=True), Offset()(y))


@pytest.mark.parametrize(
    ("build", "absent", "message"),
    [
        (optional, ["maks"], "--absent maks: no input 'maks'; did you mean 'mask'?; valid: shift, mask"),
        (optional, ["x"], "--absent x: input 'x' is not optional; valid: shift, mask"),
        (
            lambda: keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3)]),
            ["x"],
            "valid: none, since no input",
        ),
        (needed, ["y"], "--absent: operation 'dense' cannot do without the absent input: "),
        (given_back, ["y"], "--absent: an output of the model is an absent input"),
        (alone, ["y"], "--absent: every input of the model would be absent"),
    ],
)
def test_inputs_that_cannot_be_absent_are_refused(
    build: Callable[[], keras.Model], absent: list[str], message: str
) -> None:
    with pytest.raises(PartitionError) as refused:
        read(build(), absent=absent)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
