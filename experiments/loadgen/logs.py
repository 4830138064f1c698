"""loadgen.csv, which has a row for each scenario: LoadGen's results from its detail log (mlperf_log_detail.txt).

Columns, in this order (units in brackets): `scenario`, `validity` (LoadGen's word, VALID or INVALID: whether its own
rules for the least duration, the least queries, early stopping and the server's bound are met), `queries`,
`samples_per_query`, `samples` (the product of both), `mean_ms`, `p50_ms`, `p90_ms`, `p95_ms`, `p99_ms` [ms, latency of
a sample; in multi-stream of a query], `samples_per_second` (single-stream: with LoadGen's overhead; server: completed;
empty in multi-stream, where LoadGen gives none), `target_qps` (the rate that LoadGen was told; in single-stream and
multi-stream it follows from the warm-up), `target_latency_ms` [ms, in server], `min_duration` [s], `min_queries`,
`reason` (LoadGen's words on why it is INVALID, and on early stopping).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.store import files, rows
from experiments.store.files import WriteError
from experiments.store.rows import Number

DETAIL = "mlperf_log_detail.txt"
MARK = ":::MLLOG "
"""Begins each line of the detail log; JSON follows."""
RATES: Mapping[str, str] = {
    "single-stream": "result_qps_with_loadgen_overhead",
    "server": "result_completed_samples_per_sec",
    "offline": "result_samples_per_second",
}
"""Scenario -> the key of its samples per second."""


@dataclass(frozen=True)
class Outcome:
    """LoadGen's result for one scenario: a row of loadgen.csv."""

    scenario: str
    validity: str
    queries: int
    samples_per_query: int
    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    samples_per_second: float
    target_qps: float
    target_latency_ms: float
    min_duration: float
    min_queries: int
    reason: str

    def row(self) -> Mapping[str, Any]:
        return vars(self)

    @classmethod
    def of(cls, scenario: str, folder: Path) -> Self:
        """The outcome in the detail log in `folder`. Raises `WriteError` for a log without a result."""
        found = _entries(folder / DETAIL)
        query = "_per_query" if scenario == "multi-stream" else ""
        words = " ".join(f"{found.get(key, '')}" for key in ("result_invalid_reason", "early_stopping_result"))
        try:
            each, queries = int(found["effective_samples_per_query"]), int(found["result_query_count"])
            mean, *shares = (
                found[key] / 1e6
                for key in (
                    "result_mean_query_latency_ns" if query else "result_mean_latency_ns",
                    *(f"result_{share}_percentile{query}_latency_ns" for share in PERCENTILES),
                )
            )
            return cls(
                scenario=scenario,
                validity=str(found["result_validity"]),
                queries=queries,
                samples_per_query=each,
                samples=queries * each,
                mean_ms=mean,
                **dict(zip(("p50_ms", "p90_ms", "p95_ms", "p99_ms"), shares, strict=True)),
                samples_per_second=float(found[RATES[scenario]]) if scenario in RATES else math.nan,
                target_qps=float(found["effective_target_qps"]),
                target_latency_ms=found["effective_target_latency_ns"] / 1e6 if scenario == "server" else math.nan,
                min_duration=found["effective_min_duration_ms"] / 1e3,
                min_queries=int(found["requested_min_query_count"]),
                reason=" ".join(words.split()),
            )
        except KeyError as error:
            raise WriteError(f"{folder / DETAIL}: LoadGen wrote no {error.args[0]!r}; see the errors in it") from error


PERCENTILES = ("50.00", "90.00", "95.00", "99.00")
COLUMNS = tuple(item.name for item in fields(Outcome))
NUMBERS: Mapping[str, Number] = {
    **dict.fromkeys(("queries", "samples_per_query", "samples", "min_queries"), Number(whole=True)),
    **dict.fromkeys(("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "target_qps", "min_duration"), Number()),
    **dict.fromkeys(("samples_per_second", "target_latency_ms"), Number(may_be_empty=True)),
}


def read(folder: Path) -> pd.DataFrame:
    """The rows of loadgen.csv in `folder`. Raises `UsageError` for a file that is missing or has other columns."""
    return rows.read(folder / files.LOADGEN, COLUMNS, NUMBERS)


def _entries(path: Path) -> dict[str, Any]:
    """Key -> value of the detail log; the last value of a repeated key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    except (OSError, ValueError) as error:
        raise WriteError(f"cannot read {path}: {error}") from error
    return {entry["key"]: entry["value"] for entry in found}
