"""Experiments for tests of properties (hypothesis)."""

from __future__ import annotations

from hypothesis import strategies as st

from experiments.spec.experiment import Cell, Experiment

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
