"""Shared by test files: paths, generated experiments, samples in a file, and the tables of a Markdown text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from experiments.spec.experiment import Cell, Experiment
from experiments.store.samples import Sample, Writer, read
from tests.running import ROOT

REFERENCE = ROOT / "results" / "reference"
SPECS = sorted((ROOT / "experiments" / "specs").glob("*.toml"))

CELLS = st.builds(
    Cell,
    transport=st.sampled_from(["none", "grpc"]),
    mode=st.sampled_from(["layer", "submodel"]),
    engine=st.sampled_from(["eager", "graph"]),
    batch=st.integers(1, 64),
    servers=st.integers(1, 64),
    placement=st.sampled_from(["contiguous", "round-robin"]),
    local_calls=st.sampled_from(["on", "off"]),
    send=st.sampled_from(["bundle", "tensor"]),
)
EXPERIMENTS = st.builds(
    Experiment,
    cells=st.tuples(CELLS),
    title=st.text(st.characters(codec="ascii", min_codepoint=33), max_size=20),
    runs=st.integers(1, 10**6),
    seed=st.integers(0, 2**32 - 1),
    timeout=st.floats(1e-3, 86_400),
    option=st.just({}) | st.fixed_dictionaries({"none.max_message": st.integers(1, 10**9).map(str)}),
)


def frame(folder: Path, seconds: dict[Cell, Sequence[float]], block: int = 10, rounds: bool = False) -> pd.DataFrame:
    """Samples with these seconds, written to `folder` and read back.

    `rounds`: each block is a round; otherwise samples have no round, as in an earlier version.
    """
    with Writer(folder) as writer:
        for place, (cell, values) in enumerate(seconds.items()):
            for run, value in enumerate(values):
                hops = {"messages": run, "payload_bytes": 100, "lookups": 1, "connects": 2}
                sample = Sample(cell, run, value, 1000 * place + run // block, run * 1e-9, value / 4, **hops)
                writer.append(replace(sample, round=run // block if rounds else math.nan))
    return read(folder)


def rows(summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {str(row["cell"]): row for row in summary.to_dict("records")}  # type: ignore[misc]


def tables_of(text: str) -> list[list[list[str]]]:
    """Every table of `text`, as rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found
