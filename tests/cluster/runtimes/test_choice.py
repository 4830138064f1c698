"""What is known of a runtime before it is chosen, and what is refused beside it."""

from __future__ import annotations

import importlib.util

import pytest

from cluster import runtimes
from experiments.reports.labels import Settings, value_of
from experiments.spec.flags import parse
from experiments.spec.settings import FOR_NODES
from tests.cluster.runtimes.conftest import LOCAL_ENGINES, usable
from tests.test_architecture import HEAVY, loaded_by
from transports.errors import UsageError


def test_saying_what_the_runtimes_are_imports_none_of_their_libraries() -> None:
    code = "from cluster import runtimes; print(*(runtimes.kind(name).title for name in runtimes.NAMES))"
    assert not loaded_by(code) & {"ray", *HEAVY}


@pytest.mark.parametrize("name", runtimes.NAMES)
def test_engines_are_local_ones(name: str) -> None:
    assert set(runtimes.kind(name).engines) <= set(LOCAL_ENGINES)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(UsageError, match="no runtime 'rey'; did you mean 'ray'"):
        runtimes.kind("rey")


def test_a_library_that_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match="transport 'ray' needs the package 'ray': pip install ray"):
        parse(["--transport", "ray"])


REFUSED = [
    (["tf-runtime", "--engine", "frozen"], "--transport tf-runtime: its servers listen on every address"),
    (["tf-runtime", "--insecure", "on"], "--engine eager: --transport tf-runtime cannot .* valid: graph, frozen"),
    (["ray", "--engine", "tfserving"], "--engine tfserving: --transport ray cannot .* valid: eager, graph, frozen"),
    (["ray-graph", "--concurrency", "4"], "--concurrency 4: --transport ray-graph takes one request at a time"),
    (["ray,grpc", "--kill", "node-1@2"], "--kill: --transport ray has none of it"),
    (["ray,grpc", "--pin", "on"], "--pin: --transport ray has none of it"),
    (["ray,grpc", *(word for name in ("cert", "key", "ca") for word in (f"--tls-{name}", "x.pem"))], "--tls-cert: "),
    (["ray", "--flow", "hub"], "--flow hub: it has no effect on the transport 'ray', a runtime; leave it out"),
    (["ray", "--codec", "json"], "--codec json: it has no effect"),
    (["ray", "--local-calls", "off"], "--local-calls off: it has no effect"),
    (["ray", "--registry", "per-hop"], "--registry per-hop: it has no effect"),
    (["ray,ray-graph", "--connections", "per-hop"], "--connections per-hop: it has no effect"),
    (["ray", "--send", "tensor"], "--send tensor: it has no effect"),
    (["ray", "--repeats", "2"], "--repeats 2: it has no effect"),
    (["ray", "--workers", "9"], "--workers 9: it has no effect"),
    (["ray", "--replicas", "2"], "--replicas 2: it has no effect"),
    (["ray", "--option", "ray.x=1"], "no transport 'ray' in this experiment"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_a_runtime_cannot_do_is_refused(words: list[str], message: str) -> None:
    usable("ray")
    with pytest.raises(UsageError, match=message):
        parse(["--transport", *words])


def test_settings_of_nodes_stay_with_the_transports_beside_a_runtime() -> None:
    usable("ray")
    experiment, _ = parse(["--transport", "grpc,ray", "--flow", "hub,forward", "--replicas", "2"])
    assert [(cell.transport, cell.flow) for cell in experiment.cells] == [
        *(("grpc", flow) for flow in ("hub", "forward")),
        ("ray", "nested"),
    ]
    *_, ray = experiment.cells
    assert {value_of(ray, name) for name in FOR_NODES if hasattr(ray, name)} == {"—"}
    assert Settings(experiment.cells).label(ray) == "Ray actors, —"
