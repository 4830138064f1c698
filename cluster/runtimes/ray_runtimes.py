"""Ray: a partition as calls of actors that pass references, or as one graph that Ray has compiled.

Actors pass tensors of more than 100 kB through Ray's object store in shared memory, and smaller tensors in the messages
themselves. A compiled graph passes all tensors through channels in shared memory. Ray's processes listen on every
address of the machine, and accept only programs with the token of this run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from cluster.config import RayConfig
from cluster.errors import StageFailed
from cluster.launchers import Launcher, Order
from cluster.launchers.base import START
from cluster.partition import Partition
from cluster.runtimes.base import Infer, Runtime, Setup, System, Task, ended, tasks_of
from cluster.runtimes.ray_head import kept_handlers, variables
from transports.base import Array
from transports.errors import ConnectionLost, DeadlineExceeded, UsageError

NAME = "ray"
"""The name of the process that the launcher starts."""
TOKEN = secrets.token_hex(32)
"""The token of this process's Ray clusters; it never changes, since Ray reads it once."""


class Actors(NamedTuple):
    """An actor for each server."""

    handles: list[Any]
    """The handles of the actors; empty once the actors have been killed."""
    processes: list[int]
    """The ids of the actors' processes."""


class Ray(System):
    """A Ray cluster on this machine, to which this process is connected."""

    title = "ray-actor"

    def __init__(self, launcher: Launcher, setup: Setup) -> None:
        super().__init__(launcher, setup)
        self._spare: list[Actors] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            with self.setup.exported() as (self._files, contents):
                config = RayConfig(token=TOKEN, files=self._files, device=self.setup.device)
                self.launcher.start(Order(NAME, config, contents, title="the head of Ray"))
            address = self.launcher.addresses(NAME)["gcs"]
            os.environ.update(variables(TOKEN))
            import ray

            try:
                with kept_handlers():
                    ray.init(address=str(address), log_to_driver=False, configure_logging=False)
            except UnicodeEncodeError as error:  # Ray records the command line
                raise UsageError("Ray takes no command line that is not UTF-8; rename the files in it") from error
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    @functools.cached_property
    def shared(self) -> Actors:
        """Actors that several runtimes may share for calls."""
        return self._start()

    @contextlib.contextmanager
    def own(self) -> Iterator[Actors]:
        """Actors for one deployment alone: Ray allows one graph per actor, and these actors may be suspended."""
        actors = self._spare.pop() if self._spare else self._start()
        try:
            yield actors
        finally:
            if actors.handles:
                self._spare.append(actors)

    def kill(self, actors: Actors) -> None:
        import ray

        for actor in actors.handles:
            ray.kill(actor)
        actors.handles.clear()

    def _start(self) -> Actors:
        import ray

        from cluster.runtimes.ray_server import PortionServer

        actor, setup = ray.remote(num_cpus=0, max_restarts=0)(PortionServer), self.setup
        how = (self._files, setup.threads, setup.malloc, os.environ.get("OMP_NUM_THREADS"))
        handles = [actor.remote(server, *how, setup.device.share(server)) for server in range(setup.servers)]
        with _mapped(START):
            return Actors(handles, ray.get([handle.process.remote() for handle in handles], timeout=START))

    def _close(self) -> None:
        import ray

        _let_go(sys.exception())
        with kept_handlers():
            ray.shutdown()
        if NAME in self.launcher.running():
            self.launcher.stop([NAME])


class _OnRay(Runtime):
    libraries: ClassVar[Mapping[str, str]] = {"ray": "ray"}
    secure = "token"
    engines = ("eager", "graph", "frozen")
    processes = Ray
    system: Ray
    actors: Actors
    """The actors of the deployment."""


class RayActors(_OnRay):
    """Each task is a call of an actor. The client passes references on, and fetches only the model's outputs."""

    title = "Ray actors"

    @contextlib.contextmanager
    def deploy(self, partition: Partition, engine: str) -> Iterator[Infer]:
        import ray

        self.actors = self.system.shared
        held = _hold(self.actors, partition, engine)
        calls = [(task, actor.run.options(num_returns=len(task.outputs)), key) for task, actor, key in held]
        outputs = partition.plan.outputs

        def infer(inputs: Mapping[str, Array], timeout: float) -> Mapping[str, Array]:
            references: dict[str, Any] = dict(inputs)
            for task, method, key in calls:
                made = method.remote(key, *[references[name] for name in task.inputs])
                references.update(zip(task.outputs, made if len(task.outputs) > 1 else [made], strict=True))
            with _mapped(timeout):
                return dict(zip(outputs, ray.get([references[name] for name in outputs], timeout=timeout), strict=True))

        yield infer


class RayGraph(_OnRay):
    """All tasks are one compiled graph: channels between actors are made once, and a request starts no task.

    Actors wait for a channel by polling: five idle actors use more than one of two cores.
    """

    title = "Ray compiled graph"
    overlaps = False
    own_servers = True

    @contextlib.contextmanager
    def deploy(self, partition: Partition, engine: str) -> Iterator[Infer]:
        import ray
        from ray.dag import InputNode, MultiOutputNode

        plan = partition.plan
        taken = [name for name in plan.inputs if name in plan.edges]
        with self.system.own() as self.actors:
            with InputNode() as given:
                nodes: dict[str, Any] = {name: given[place] for place, name in enumerate(taken)}
                for task, actor, key in _hold(self.actors, partition, engine):
                    method = actor.run.options(num_returns=len(task.outputs))
                    made = method.bind(key, *[nodes[name] for name in task.inputs])
                    nodes.update(zip(task.outputs, made if len(task.outputs) > 1 else [made], strict=True))
                graph = MultiOutputNode([nodes[name] for name in plan.outputs]).experimental_compile()

            def infer(inputs: Mapping[str, Array], timeout: float) -> Mapping[str, Array]:
                with _mapped(timeout):
                    found = ray.get(graph.execute(*[inputs[name] for name in taken]), timeout=timeout)
                # Copied, since the arrays lie in channels, which the next request overwrites.
                return {name: np.array(array) for name, array in zip(plan.outputs, found, strict=True)}

            try:
                yield infer
            finally:
                self._signal(signal.SIGCONT)
                if not ended(graph.teardown):
                    self.system.kill(self.actors)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.actors.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def _let_go(error: BaseException | None) -> None:
    """Clear the local variables in the frames of `error` and of its causes.

    A buffer of Ray that is released after Ray's shutdown writes to memory that is no longer mapped: a crash.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _hold(actors: Actors, partition: Partition, engine: str) -> list[tuple[Task, Any, str]]:
    """Give each task to its actor: the task, the actor, and the task's key at the actor. Raises `ConnectionLost`."""
    import ray

    held = [(task, actors.handles[task.server], uuid.uuid4().hex) for task in tasks_of(partition)]
    with _mapped(START):
        holding = [actor.hold.remote(key, partition.name, engine, task) for task, actor, key in held]
        ray.get(holding, timeout=START)
    return held


@contextlib.contextmanager
def _mapped(timeout: float) -> Iterator[None]:
    """Raise Ray's errors as errors of this project, with the first line of Ray's text: the rest has paths in it."""
    from ray import exceptions

    try:
        yield
    except (exceptions.GetTimeoutError, exceptions.RayChannelTimeoutError) as error:
        raise DeadlineExceeded(f"Ray did not answer within {timeout:.3g} s") from error
    except (exceptions.RayError, OSError) as error:
        cause = getattr(error, "cause", error)  # a task fails because of its stage, or because it lost its inputs
        if isinstance(cause, StageFailed):
            raise StageFailed(str(cause)) from error
        if isinstance(cause, exceptions.RayError | OSError):
            raise ConnectionLost(f"Ray lost a server: {type(cause).__name__}") from error
        raise StageFailed(f"a task of Ray failed with {type(cause).__name__}") from error
