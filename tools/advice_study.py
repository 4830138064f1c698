"""`python -m tools.advice_study --out FOLDER`: how well profiles predict runs, and the regret of what they advise.

For each model, it makes a profile of a cloud machine and of an edge device, which is the same machine with an emulated
slowdown. Then one run measures the profiled cuts, the whole model on either host, and the equal split, over several
transports and emulated links. FOLDER/MODEL/profile and FOLDER/MODEL/run hold the results; existing folders are not
measured again.

study.csv has a row for each model and link: `model`, `link`, `cells`, and for predictions
  - by the profile alone: `profile_median` (median relative error), `profile_within` (share of cells within 10 %);
  - by the profile corrected with the cells of all *other* links: `median`, `within`;
and for the way that the profile alone advises over this link: `advised`, `best`, `regret`, `low`, `high`, `equal`
(the regret of the equal split), as `experiments.advise.regret` describes; for the way that the corrected profile
advises: `corrected_advised`, `corrected_regret`, `corrected_low`, `corrected_high`. study.md has the same rows as a
table.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.advise import fit, measured, regret
from experiments.advise.measured import Measured
from experiments.reports.markdown import line, number, table
from experiments.store import profile as store
from experiments.store.files import replace_file
from experiments.store.rows import as_csv

MODELS = ("MobileNetV3Large", "MobileNetV2", "DenseNet121", "ResNet50")
TRANSPORTS = ("tcp", "grpc", "rpyc-tuned")
LINKS = (
    *("rtt:1ms,bandwidth:1Gbit", "rtt:1ms,bandwidth:100Mbit", "rtt:1ms,bandwidth:20Mbit"),
    *("rtt:10ms,bandwidth:50Mbit", "rtt:20ms,bandwidth:1Gbit"),
)
HOSTS = """\
[[host]]
name = "edge"
client = true
servers = [0]
cores = [0]
slowdown = {slowdown}

[[host]]
name = "cloud"
servers = [1]
cores = [1]
"""
SPEC = """\
title = "Advice and measurement: {model}"
model = "{model}"
engine = "frozen"
threads = 1
runs = {runs}
warmup = 3
limit = {limit}

{hosts}
"""
MATRIX = """
[[matrix]]
mode = "{mode}"
servers = {servers}
on = "{on}"
transport = {transports}
{more}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and derive study.csv and study.md. Exit status: 0 done; 1 a model failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.advice_study", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAME,...")
    parser.add_argument("--positions", type=int, default=6, help="cuts of each model")
    parser.add_argument("--slowdown", type=float, default=2.0, help="how many times as long stages of the edge take")
    parser.add_argument("--runs", type=int, default=100, help="timed requests of each cell at most; intervals need 25")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which a run starts no further round")
    given = parser.parse_args(argv)
    found, failed = list[dict[str, Any]](), list[str]()
    for model in given.models.split(","):
        try:
            measure(given.out / model, model, given)
        except subprocess.CalledProcessError:  # the command has printed the reason
            failed.append(model)
        else:
            found += map(_rounded, rows(given.out / model, model))
    if failed:
        print(f"failed: {', '.join(failed)}; delete what is incomplete there, and start again", file=sys.stderr)
    if not found:
        return 1
    replace_file(given.out / "study.csv", as_csv(list(found[0]), found))
    replace_file(given.out / "study.md", _markdown(found))
    print(given.out / "study.md")
    return 1 if failed else 0


def measure(folder: Path, model: str, given: argparse.Namespace) -> None:
    """Make the profile and the run of a model, unless their folders exist."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, profile, run = folder / "spec.toml", folder / "profile", folder / "run"
    head = SPEC.format(model=model, runs=given.runs, limit=given.limit, hosts=HOSTS.format(slowdown=given.slowdown))
    if not profile.exists():
        spec.write_text(head + f"\n[[matrix]]\ntransport = {_list(TRANSPORTS)}\n", encoding="utf-8")
        _call("profile", "--spec", spec, "--positions", given.positions, "--out", profile)
    if not run.exists():
        spec.write_text(head + "".join(_blocks(store.read(profile))), encoding="utf-8")
        _call("run", "--spec", spec, "--out", run)


def _blocks(profile: store.Profile) -> Iterator[str]:
    """The matrices of a run: over the first transport every cut and the equal split, over the others a third of the
    cuts; and the whole model on either host."""
    operations = profile.graph.operations
    cuts = [operations[at].name for at in profile.runs_of("edge").positions]
    links = f"link = {_list([f'edge<->cloud {words}' for words in LINKS])}\n"
    first, *others = TRANSPORTS
    for names, chosen in (([first], [*cuts, "equal"]), (others, cuts[1::3])):
        more = f"cut = {_list(chosen)}\n{links}"
        yield MATRIX.format(mode="submodel", servers=2, on="edge+cloud", transports=_list(names), more=more)
    yield MATRIX.format(mode="whole", servers=1, on="cloud", transports=_list(TRANSPORTS), more=links)
    yield MATRIX.format(mode="whole", servers=1, on="edge", transports=_list(TRANSPORTS), more="")


def rows(folder: Path, model: str) -> Iterator[dict[str, Any]]:
    """The rows of study.csv of a model."""
    profile = store.read(folder / "profile")
    cells, seed = measured.read(profile, folder / "run"), profile.experiment.seed
    seconds = np.asarray([item.seconds for item in cells])
    alone = np.asarray([item.predicted for item in cells])
    for link in regret.links_of(cells):
        elsewhere = [item for item in cells if item.cell.link != link]
        predicted = fit.predictions(cells, fit.fitted(elsewhere))
        here = np.asarray([item.cell.link == link for item in cells])
        found = regret.regret_of(link, cells, list(alone), seed)
        corrected = regret.regret_of(link, cells, list(predicted), seed)
        row = {"model": model, "link": link, "cells": int(here.sum())}
        row |= dict(zip(("profile_median", "profile_within"), _errors(alone[here] / seconds[here] - 1), strict=True))
        row |= dict(zip(("median", "within"), _errors(predicted[here] / seconds[here] - 1), strict=True))
        row |= {"advised": _where(found.advised), "best": _where(found.best)}
        row |= {"regret": found.value, "low": found.low, "high": found.high, "equal": found.equal}
        row |= {"corrected_advised": _where(corrected.advised), "corrected_regret": corrected.value}
        yield row | {"corrected_low": corrected.low, "corrected_high": corrected.high}


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with six digits of each figure: further digits of a fit depend on the processor."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _errors(errors: Any) -> tuple[float, float]:
    return float(np.median(np.abs(errors))), float((np.abs(errors) <= fit.WITHIN).mean())


def _where(item: Measured) -> str:
    cell = item.cell
    return f"{cell.transport} {f'whole on {cell.on}' if cell.mode == 'whole' else cell.cut}"


def _call(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "experiments", *map(str, words)], check=True)


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def regret_text(row: Mapping[Any, Any], kind: str = "") -> str:
    """The regret of a row of study.csv with its interval. `kind`: empty, or "corrected_"."""
    value, low, high = (100 * float(row[f"{kind}{name}"]) for name in ("regret", "low", "high"))
    return f"{value:.1f} %" + ("" if math.isnan(low) else f" ({number(low, 2)} to {number(high, 2)} %)")


def _largest(found: Sequence[dict[str, Any]], kind: str) -> str:
    return regret_text(max(found, key=lambda row: row[f"{kind}regret"]), kind)


def _markdown(found: Sequence[dict[str, Any]]) -> str:
    head = (
        *("Model", "Link", "Median error", "Within 10 %", "Advised", "Fastest measured", "Regret (95 %)"),
        *("Equal split", "Advised when corrected", "Regret (95 %)"),
    )
    body = [
        [
            *(row["model"], line(row["link"]), f"{100 * row['median']:.2g} %", f"{100 * row['within']:.3g} %"),
            *(line(row["advised"]), line(row["best"]), regret_text(row)),
            f"{100 * row['equal']:.3g} %" if row["equal"] == row["equal"] else "-",
            *(line(row["corrected_advised"]), regret_text(row, "corrected_")),
        ]
        for row in found
    ]
    cells = sum(row["cells"] for row in found)
    within = sum(row["cells"] * row["within"] for row in found) / cells
    text = [
        "# How well profiles predict runs, and the regret of advice",
        "",
        f"{cells} cells with a link, each predicted by a profile that was corrected with the cells of all other links: "
        f"{100 * within:.3g} % within 10 %. Largest regret of advice from the profile alone: {_largest(found, '')}; "
        f"from the corrected profile: {_largest(found, 'corrected_')}.",
        "",
        *table(head, body, left=2),
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    sys.exit(main())
