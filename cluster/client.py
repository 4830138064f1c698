"""The client: asks where the model's inputs are awaited, sends them, and receives the model's outputs."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.courier import Courier
from cluster.errors import NoServer
from cluster.flows import FLOWS
from cluster.mailbox import Mailbox
from cluster.partition import Partition
from cluster.route import Request, Route, Tally
from transports.base import Array

__all__ = ["Answer", "Client"]


@dataclass(frozen=True)
class Answer:
    """The model's outputs by tensor name, and what getting them cost."""

    outputs: Mapping[str, Array]
    tally: Tally


class Client:
    """One of possibly many; its request ids are unique among them all."""

    def __init__(self, courier: Courier, mailbox: Mailbox) -> None:
        self._courier = courier
        self._mailbox = mailbox
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()

    def infer(self, partition: Partition, route: Route, inputs: Mapping[str, Array], timeout: float) -> Answer:
        """Run `partition` on `inputs` (tensor name -> array, batch first) within `timeout` seconds.

        Raises a `WireError`; `NoServer` when an output of the model did not come back.
        """
        request = Request(f"{self._prefix}-{next(self._numbers)}", route, time.monotonic() + timeout)
        sent = {name: inputs[name] for name in partition.plan.inputs if name in partition.plan.wires}
        outputs, tally = FLOWS[route.flow].ask(request, partition, sent, self._courier, self._mailbox)
        missing = [name for name in partition.plan.outputs if name not in outputs]
        if missing:
            raise NoServer(f"the servers answered without the model's outputs {', '.join(map(repr, missing))}")
        return Answer(outputs, tally)
