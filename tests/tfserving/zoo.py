"""Small SavedModels for the cases of the protocol, and a partition of a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from partitioning.export import export
from partitioning.program import read
from partitioning.served import Served
from partitioning.strategies import make_plan
from tests.models import MODELS

CONFIG = "zoo.config"
EVERY_VERSION = "model_version_policy { all {} }"
SPLIT = "split"
PARTITIONED = "several-outputs"
"""The Keras model whose partition is served. Its tensors have names that are illegal in signatures."""

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers that every dtype represents exactly; complex ones have an imaginary part."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    drawn = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape)
    return np.asarray(drawn * (1 + 1j) if kind.kind == "c" else drawn).astype(kind)


def function(call: Callable[..., Mapping[str, Any]], **inputs: tuple[tuple[int | None, ...], str]) -> Any:
    """A signature: `call` with named inputs of these shapes and dtypes."""
    specs = {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def scale(factor: float) -> Mapping[str, Any]:
    """A version of the model `scale`: one signature multiplies by `factor`, and a second signature adds it."""
    pairs: Any = ((None, 2), "float32")
    return {
        "serving_default": function(lambda x: {"y": x * factor}, x=pairs),
        "shift": function(lambda x: {"y": x + factor}, x=pairs),
    }


def mixed() -> Mapping[str, Any]:
    """Two inputs and three outputs of different dtypes."""
    return {
        "serving_default": function(
            lambda a, b: {
                "sum": a + tf.cast(b, "float32")[:, None],
                "odd": b % 2 == 1,
                "square": tf.cast(b, "int64") ** 2,
            },
            a=((None, 2), "float32"),
            b=((None,), "int32"),
        )
    }


def words() -> Mapping[str, Any]:
    """Strings as text and as bytes: the name of an output determines which."""
    return {
        "serving_default": function(lambda s: {"text": s, "raw_bytes": s}, s=((None,), "string")),
        "scalar": function(lambda x: {"y": tf.reduce_sum(x)}, x=((None,), "float32")),
    }


def every() -> Mapping[str, Any]:
    """For each dtype, a signature that returns its input."""
    return {
        "serving_default": function(lambda x: {"y": tf.identity(x)}, x=((None, 3), "float32")),
        **{dtype: function(lambda x: {"y": tf.identity(x)}, x=((None, 3), dtype)) for dtype in DTYPES},
    }


def write(folder: Path) -> None:
    """Write every model below `folder`, and their `ModelServerConfig`."""
    models = {"scale": {2: scale(2.0), 10: scale(10.0)}, "mixed": {1: mixed()}, "words": {1: words()}}
    for name, versions in (models | {"every": {7: every()}}).items():
        for number, signatures in versions.items():
            tf.saved_model.save(tf.Module(), str(folder / name / str(number)), signatures)
    program = read(MODELS[PARTITIONED]())
    split = export(program, make_plan(program.graph, "layer"), folder / SPLIT)
    bases = {name: folder / name for name in ("scale", "mixed", "words", "every")}
    bases |= {name: folder / SPLIT / name for name in split.models.values()}
    entries = (
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {EVERY_VERSION} }}'
        for name, base in bases.items()
    )
    (folder / CONFIG).write_text(f"model_config_list {{ {' '.join(entries)} }}")


def served(folder: Path) -> Served:
    return Served.read(folder / SPLIT)
