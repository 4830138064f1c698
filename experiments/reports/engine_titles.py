"""Names of engines in reports, and their explanations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.model_servers import selection
from partitioning.engine_table import ENGINES

Titles = Mapping[str, str]
"""Engine that calls model servers -> its name in tables, which names the model server."""

SERVERS: Mapping[str, str] = {
    selection.REAL: "the model server was TensorFlow Serving",
    selection.OURS: "the model server was this project's own; it implements TensorFlow Serving's API",
}


def titles_of(record: Mapping[str, Any]) -> Titles:
    """The titles of the engines that call model servers, from an environment's `record`; empty without any."""
    kind = (record.get("model_server") or {}).get("kind")
    return {engine: selection.title(engine, str(kind)) for engine in selection.INTERFACES} if kind else {}


def named(engine: str, titles: Titles, noun: str = "") -> str:
    """`"frozen engine"`, `"tfserving engine (TF Serving)"`."""
    return f"{engine}{noun} ({titles[engine]})" if engine in titles else f"{engine}{noun}"


def explained(names: Collection[str], titles: Titles) -> list[str]:
    """A line for each engine, and the lines about model servers if an engine calls them."""
    lines = [f"- **{name}**: {ENGINES[name].description if name in ENGINES else 'an engine'}." for name in names]
    if not titles.keys() & set(names):
        return lines
    kind = titles[selection.OWNER]
    return [
        *lines,
        f"- **{kind}**: {SERVERS.get(kind, 'a model server')}.",
        "- With these engines the nodes only collect tensors and call the model servers; over None the client calls "
        "them. **Local**, and the None of x / None, execute the same stages as `tf.function`s in one process (engine "
        "graph). Calls to model servers count as time in stages and as bytes on the wire, but not as messages.",
    ]
