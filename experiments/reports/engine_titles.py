"""What reports call engines, and say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.model_servers import selection
from partitioning.engine_table import ENGINES

Titles = Mapping[str, str]
"""Engine that ran in model servers -> what tables call it: which server that was."""

SERVERS: Mapping[str, str] = {
    selection.REAL: "the model server was TensorFlow Serving's own",
    selection.OURS: "the model server was this project's own, which answers as TensorFlow Serving does and is not it",
}


def titles_of(record: Mapping[str, Any]) -> Titles:
    """What an experiment's tables call the engines that ran in model servers, by its environment's `record`."""
    kind = (record.get("model_server") or {}).get("kind")
    return {engine: selection.title(engine, str(kind)) for engine in selection.ENGINES} if kind else {}


def named(engine: str, titles: Titles, noun: str = "") -> str:
    """`"frozen engine"`, `"tfserving engine (TF Serving)"`."""
    return f"{engine}{noun} ({titles[engine]})" if engine in titles else f"{engine}{noun}"


def explained(names: Collection[str], titles: Titles) -> list[str]:
    """A line for each engine, and what is to be known of model servers where there are any."""
    lines = [f"- **{name}**: {ENGINES[name].description if name in ENGINES else 'an engine'}." for name in names]
    if not titles.keys() & set(names):
        return lines
    kind = titles[selection.OWNER]
    return [
        *lines,
        f"- **{kind}**: {SERVERS.get(kind, 'a model server')}.",
        "- Under these engines nodes are collectors, and over None it is the client that calls the model servers. "
        "**Local**, and the None of x / None, execute the same stages as `tf.function`s in one process (engine graph), "
        "without any server. Calls to model servers count as time in stages and cross the wire, but are no messages.",
    ]
