"""The messages of one request, in the order in which its flow sends them, computed from the partition alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cluster.partition import Partition
from cluster.pending import PendingInputs, Values, cascade
from cluster.segments import Segment, segments_of
from partitioning.plan import Stage


@dataclass(frozen=True)
class Step:
    """A message with tensors to a server, and what follows from it."""

    server: int
    there: int
    """Bytes of the tensors in the message."""
    back: int = 0
    """Bytes of the tensors in its answer."""
    stages: tuple[Stage, ...] = ()
    """The stages that it completes."""
    sends: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    """Earlier steps that brought the other inputs of its stages (flow `forward`)."""
    result: int | None = None
    """Bytes of the model's outputs among the tensors that its stages make (flow `forward`)."""

    def scaled(self, factor: float) -> Step:
        """The same step with other bytes."""
        there, back = round(self.there * factor), round(self.back * factor)
        return replace(self, there=there, back=back, result=self.result and round(self.result * factor))


@dataclass(frozen=True)
class Steps:
    """All steps of a request, by number, and the numbers of the steps that the client sends."""

    all: tuple[Step, ...]
    roots: tuple[int, ...]

    @property
    def messages(self) -> int:
        """The number of messages, as `RequestStats` counts them."""
        return len(self.all) + sum(step.result is not None for step in self.all)

    @property
    def payload(self) -> int:
        """Bytes of all tensors in the messages."""
        return sum(step.there + step.back + (step.result or 0) for step in self.all)

    def scaled(self, payload: float) -> Steps:
        """The same steps with `payload` bytes in all: tensors may have open extents, and may be packed."""
        if not self.payload or payload == self.payload:
            return self
        factor = payload / self.payload
        return replace(self, all=tuple(step.scaled(factor) for step in self.all))


def steps_of(partition: Partition, flow: str, *, local_calls: bool, send: str, batch: int) -> Steps:
    """The steps of a request of `batch` samples. Other extents that the model leaves open count as one."""
    walk = _Walk(partition, local_calls, send, batch)
    inputs = tuple(name for name in partition.plan.inputs if name in partition.consumers)
    roots = WALKS[flow](walk, inputs)
    return Steps(tuple(walk.steps), tuple(roots))


@dataclass
class _Walk:
    partition: Partition
    local_calls: bool
    send: str
    batch: int
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        portions = [self.partition.portion(server) for server in range(self.partition.servers)]
        self._pending = [PendingInputs(segments_of(stages, self.local_calls)) for stages in portions]
        self._brought: dict[tuple[int, str], int] = {}

    def nbytes(self, names: Iterable[str]) -> int:
        edges: Mapping[str, int] = {name: self.partition.plan.edges[name].nbytes for name in names}
        return sum(edges.values()) * self.batch

    def messages(self, names: Iterable[str]) -> list[tuple[int, tuple[str, ...]]]:
        return self.partition.messages(tuple(names), self.local_calls, self.send)

    def leaving(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if self.partition.destinations(name, self.local_calls))

    def final(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.partition.plan.outputs)

    def arrive(self, server: int, names: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """The number of the step, and the names of the tensors that its stages make."""
        number, stages, taken = len(self.steps), list[Stage](), set[str]()
        self._brought.update({(server, name): number for name in names})

        def execute(segment: Segment, inputs: Values) -> Values:
            stages.extend(segment.stages)
            taken.update(segment.inputs)
            return dict.fromkeys(segment.outputs)

        cascade(self._pending[server].put, dict.fromkeys(names), execute)
        brought = {self._brought.get((server, name), number) for name in taken} - {number}
        self.steps.append(
            Step(server, self.nbytes(names), stages=tuple(stages), after=tuple(sorted(brought))),
        )
        return number, tuple(name for stage in stages for name in stage.outputs)

    def amend(self, number: int, **changes: object) -> None:
        self.steps[number] = replace(self.steps[number], **changes)  # type: ignore[arg-type]


def _nested(walk: _Walk, inputs: tuple[str, ...]) -> list[int]:
    """Depth first. A list is the stack, since the calls of a layer-wise plan are hundreds deep."""
    roots: list[int] = []
    stack: list[tuple[int, list[tuple[int, tuple[str, ...]]]]] = [(-1, walk.messages(inputs))]
    while stack:
        caller, left = stack[-1]
        if not left:
            stack.pop()
            continue
        number, made = walk.arrive(*left.pop(0))
        walk.amend(number, back=walk.nbytes(walk.final(made)), after=())
        if caller < 0:
            roots.append(number)
        else:
            walk.amend(caller, sends=(*walk.steps[caller].sends, number))
        stack.append((number, walk.messages(walk.leaving(made))))
    for number in reversed(range(len(walk.steps))):  # a step has a lower number than the steps that it sends
        step = walk.steps[number]
        walk.amend(number, back=step.back + sum(walk.steps[following].back for following in step.sends))
    return roots


def _hub(walk: _Walk, inputs: tuple[str, ...]) -> list[int]:
    """Round by round."""
    while inputs:
        found: dict[str, None] = {}
        for message in walk.messages(inputs):
            number, made = walk.arrive(*message)
            returned = tuple(dict.fromkeys([*walk.leaving(made), *walk.final(made)]))
            walk.amend(number, back=walk.nbytes(returned), after=())
            found |= dict.fromkeys(returned)
        inputs = walk.leaving(found)
    return [*range(len(walk.steps))]


def _forward(walk: _Walk, inputs: tuple[str, ...]) -> list[int]:
    """Breadth first: the client's messages, then the messages that these cause. Of several messages that a stage needs,
    the one with the highest number counts as the last."""
    roots: list[int] = []
    waiting = deque((-1, message) for message in walk.messages(inputs))
    while waiting:
        caller, message = waiting.popleft()
        number, made = walk.arrive(*message)
        if final := walk.final(made):
            walk.amend(number, result=walk.nbytes(final))
        if caller < 0:
            roots.append(number)
        else:
            walk.amend(caller, sends=(*walk.steps[caller].sends, number))
        waiting.extend((number, following) for following in walk.messages(walk.leaving(made)))
    return roots


WALKS = {"nested": _nested, "hub": _hub, "forward": _forward}
"""Flow -> the function that appends every step to a walk, and returns the roots."""
