"""Reads the two results folders of a comparison, and refuses runs that may not be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.compare.compare import compare
from experiments.compare.surroundings import Difference, differences
from experiments.compare.tables import Outcome, settings_of
from experiments.reports import engine_titles
from experiments.spec.experiment import Experiment
from experiments.spec.settings import from_record
from experiments.store import environment, samples
from transports.errors import UsageError


@dataclass(frozen=True)
class Run:
    """A results folder of `splitbench run`."""

    folder: str
    record: Mapping[str, Any]
    experiment: Experiment
    measured: pd.DataFrame

    def warnings(self, name: str) -> list[str]:
        """The warnings of the run's report, for the run called `name`."""
        cause = self.record["failure"] or "the run recorded no cause"
        found = [] if self.record["complete"] else [f"{name} is INCOMPLETE: {cause}"]
        found += [f"{name}: {note}"] if (note := self.measured.attrs.get("note")) else []
        found += [f"{name}: {self.record[key]}" for key in ("warning", "links_warning") if self.record.get(key)]
        return [f"warning: {text}" for text in found]


def read(folder: str) -> Run:
    """The run in `folder`. Raises `UsageError` if it holds no run, or one whose nodes were killed."""
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"no folder {folder!r}; give a folder that an experiment wrote")
    record = environment.read(path)
    found = record["experiment"]
    if not isinstance(found, dict) or found.get("kind"):
        kind = found.get("kind") if isinstance(found, dict) else "another program"
        raise UsageError(f"{folder} holds results of {kind}; give folders that `splitbench run` wrote")
    experiment = from_record(found)
    if experiment.kill:
        raise UsageError(
            f"{folder}: nodes were killed in this run (--kill {experiment.kill}), so its times include recoveries; "
            "compare runs without --kill"
        )
    return Run(folder, record, experiment, samples.read(path))


def outcome_of(a: Run, b: Run, *, anyway: bool = False) -> Outcome:
    """Compare two runs.

    Raises `UsageError` if they have no cell in common, or, unless `anyway`, if their environments may not be compared.
    """
    comparison = compare(a.measured, b.measured, (a.experiment.seed, b.experiment.seed))
    if not comparison.changes:
        raise UsageError(
            f"{a.folder} and {b.folder} have no cell in common, besides local models: "
            f"{len(comparison.only[0])} only in the first, {len(comparison.only[1])} only in the second; "
            "compare runs of the same specification"
        )
    found = differences((a.record, b.record), (a.experiment, b.experiment))
    forbidding = [each for each in found if each.forbids]
    if forbidding and not anyway:
        raise UsageError(
            f"{a.folder} and {b.folder} may not be compared: {_joined(forbidding)}; --anyway compares them nevertheless"
        )
    warnings = [*a.warnings("A"), *b.warnings("B")]
    notes = [*warnings, *(f"differs, compared anyway: {each}" for each in forbidding)]
    mentioned = tuple(str(each) for each in found if not each.forbids)
    titles = {**engine_titles.titles_of(b.record), **engine_titles.titles_of(a.record)}
    return Outcome(comparison, settings_of(comparison, titles), (a.folder, b.folder), tuple(notes), mentioned)


def _joined(found: list[Difference]) -> str:
    return "; ".join(map(str, found))
