"""The messages and answers between the start of a request and its end, when it is alone in the system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cluster.links.link import arithmetic
from experiments.simulate.measured import Run
from experiments.simulate.walk import Steps

CLIENT = -1
"""Stands for the client among the numbers of servers."""


class Trip(NamedTuple):
    """A message, or an answer for which somebody waits."""

    source: int
    """Number of a server, or `CLIENT`."""
    target: int
    nbytes: int


def callers(steps: Steps) -> Mapping[int, int]:
    """Step -> the server that sends its message; steps that the client sends are left out."""
    return {number: step.server for step in steps.all for number in step.sends}


def trips(run: Run) -> Iterator[Trip]:
    """The trips on the way of a request, in no order.

    In the flow `forward` a server computes while it answers, so that answers are not on the way.
    """
    sender = callers(run.steps)
    for number, step in enumerate(run.steps.all):
        caller = sender.get(number, CLIENT)
        yield Trip(caller, step.server, step.there)
        if run.cell.flow != "forward":
            yield Trip(step.server, caller, step.back)
        if step.result is not None:
            yield Trip(step.server, CLIENT, step.result)


def handled(run: Run) -> Mapping[int, int]:
    """Process -> the messages and answers on the way that it sends or receives."""
    found = dict.fromkeys([CLIENT, *run.chosen], 0)
    for trip in trips(run):
        found[trip.source] += 1
        found[trip.target] += 1
    return found


def worked(run: Run) -> Mapping[int, int]:
    """Process -> all messages and answers that it sends or receives for a request, on the way or not."""
    return handled(run) if run.cell.flow != "forward" else {process: 2 * n for process, n in handled(run).items()}


def arrivals(run: Run) -> Mapping[int, int]:
    """Process -> the messages and answers on the way that it receives."""
    found = dict.fromkeys([CLIENT, *run.chosen], 0)
    for trip in trips(run):
        found[trip.target] += 1
    return found


def on_links(run: Run) -> Mapping[int, float]:
    """Process -> seconds for which emulated links delay the messages and answers that it receives."""
    found = dict.fromkeys([CLIENT, *run.chosen], 0.0)
    names, links = {CLIENT: run.here, **run.hosts}, run.links
    for trip in trips(run):
        if (link := links.get((names.get(trip.source, ""), names.get(trip.target, "")))) is not None:
            found[trip.target] += arithmetic(link, trip.nbytes)
    return found
