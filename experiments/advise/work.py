"""Answers a question: reads the profile, ranks the candidates, prints and writes the advice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.advise import model as models
from experiments.advise import table
from experiments.advise.__main__ import VERIFY, AdviseOptions
from experiments.store import files, samples
from experiments.store.files import replace_file
from experiments.store.profile import Profile
from partitioning import command_line
from partitioning.advice import Advice, Question, advise
from partitioning.cost_model import CostModel
from transports.errors import UsageError


def question_of(given: AdviseOptions, model: CostModel, asked: models.Asked) -> Question:
    """The question of the options. Servers of one machine are alike, so only their number matters."""
    names = tuple(model.devices)
    alike = () if asked.hosts else tuple(names[:count] for count in range(1, len(names) + 1))
    return Question(given.goal, given.servers, 1, given.keep_first, given.deadline, given.top, alike)


def run(given: AdviseOptions, argv: Sequence[str]) -> None:
    """Print the advice; write, correct and verify it if the options ask for that.

    Raises `UsageError` and `PartitionError` for questions that cannot be answered.
    """
    out = Path(given.out) if given.out else None
    if out:
        samples.refuse_taken(out)
        if (out / files.ADVICE).exists():
            raise UsageError(f"--out {out}: already holds an advice ({files.ADVICE}); give another")
    profile = models.read(given)
    if given.verify != VERIFY[0] and profile.experiment.several_machines and not given.hosts:
        raise UsageError("--verify: a profile does not record where its machines are; give them: --hosts FILE")
    asked = models.asked(given, profile)
    model = models.model_of(profile, asked, given.transport, given.servers)
    console = command_line.console()
    if not console.is_terminal:  # a pipe has no width
        console = command_line.console(width=160)
    if given.fit:
        from experiments.advise import fit

        model = fit.corrected(profile, model, [Path(name) for name in given.fit], console, out)
    advice = advise(model, question_of(given, model, asked))
    notes = table.notes(advice, model, given.goal)
    if asked.hosts and (pairs := unlinked(model)):
        notes.append(f"no link is given between {', '.join(pairs)}: they are taken as one machine (--link)")
    console.print(_shown(title(profile, given), advice, model))
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / files.ADVICE, table.as_csv(advice, model))
        replace_file(out / files.ADVICE_MD, table.as_markdown(advice, model, title(profile, given), notes))
        console.print(f"advice: {out / files.ADVICE_MD}", soft_wrap=True)
    if given.verify != VERIFY[0] and out:
        from experiments.advise import verify

        verify.run(given, profile, asked, model, advice, out, argv)


def unlinked(model: CostModel) -> list[str]:
    """The pairs of hosts between which there is no link, the client's host among them."""
    names = dict.fromkeys([model.client, *model.devices])
    pairs = itertools.combinations(names, 2)
    return [f"{one} and {other}" for one, other in pairs if not {(one, other), (other, one)} & model.paths.keys()]


def title(profile: Profile, given: AdviseOptions) -> str:
    goal = table.GOAL_TITLES[given.goal]
    link = f", {given.link}" if given.link else ""
    return f"{profile.experiment.model}, engine {profile.engine}, batch {profile.batch}{link}: {goal}"


def _shown(title: str, advice: Advice, model: CostModel) -> Table:
    made = Table(box=SIMPLE_HEAD, title=title)
    for place, heading in enumerate(table.HEADINGS):
        made.add_column(heading, justify="left" if place < 2 else "right", overflow="fold", no_wrap=place > 0)
    for item in advice.ranked:
        made.add_row(*table.cells(model, item))
    return made
