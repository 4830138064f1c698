"""TensorFlow's own runtime: one graph over several `tf.distribute.Server`s, executed by one session.

Every stage is placed on the device of its server. The client calls the first server, which divides the graph among all
servers; tensors then go from server to server (`RecvTensor` over gRPC). It uses a session, since a `tf.function` over
remote devices would change the devices of this whole process, and so affect the local model in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cluster import scratch
from cluster.config import TensorFlowServerConfig
from cluster.errors import StageFailed
from cluster.launchers import Order
from cluster.partition import Partition
from cluster.runtimes.base import Infer, Runtime, Servers, ended
from partitioning.errors import PartitionError
from partitioning.plan import Stage
from transports.base import Array
from transports.errors import ConnectionLost, DeadlineExceeded

if TYPE_CHECKING:
    from partitioning.program import Program

JOB = "worker"
OPERATION = 30
"""Seconds for a step of a session's start or end. Without a limit, TensorFlow would retry a lost server for ever."""


class TensorFlowServers(Servers):
    title = "tensorflow-server"

    def _start(self) -> None:
        setup = self.setup
        for number, name in enumerate(self._names):
            config = TensorFlowServerConfig(
                device=setup.device.share(number),
                threads=setup.threads,
                malloc=setup.malloc,  # type: ignore[arg-type]
            )
            self.launcher.start(Order(name, config))


class TensorFlowRuntime(Runtime):
    """A partition as one graph over the servers."""

    title = "TensorFlow runtime"
    engines = ("graph", "frozen")
    processes = TensorFlowServers
    system: TensorFlowServers

    @contextlib.contextmanager
    def deploy(self, partition: Partition, engine: str) -> Iterator[Infer]:
        import tensorflow as tf

        addresses = self.system.addresses
        cluster = tf.train.ClusterSpec({JOB: [str(address) for address in addresses]})
        config = tf.compat.v1.ConfigProto(
            cluster_def=cluster.as_cluster_def(),
            operation_timeout_in_ms=1000 * OPERATION,
            allow_soft_placement=True,  # since some operations have no kernel for a card
        )
        session = tf.compat.v1.Session(f"grpc://{addresses[0]}", tf.Graph(), config)
        with contextlib.ExitStack() as stack:
            stack.callback(ended, session.close)
            with scratch.folder() as folder:
                program = self.system.setup.programs[partition]
                unit = "GPU:0" if self.system.setup.device.cards else "CPU:0"
                # No variable keeps the stages alive: their weights are in the session's graph by then.
                feeds, wanted = _place(partition, STAGES[engine](program, partition, folder), session, unit)

            def infer(inputs: Mapping[str, Array], timeout: float) -> Mapping[str, Array]:
                options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(1000 * timeout)))
                fed = {tensor: inputs[name] for name, tensor in feeds.items()}
                try:
                    found: Mapping[str, Array] = session.run(wanted, fed, options)
                except tf.errors.DeadlineExceededError as error:
                    raise DeadlineExceeded(f"TensorFlow did not answer within {timeout:.3g} s") from error
                except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
                    raise ConnectionLost(f"TensorFlow lost a server: {type(error).__name__}") from error
                except tf.errors.OpError as error:
                    raise StageFailed(f"TensorFlow failed with {type(error).__name__}") from error
                return found

            yield infer


class _Stages(Protocol):
    def add(self, session: Any, stage: Stage, given: Sequence[Any], scope: str) -> list[Any]:
        """Add a stage to the session's graph, with its tensors `given` as inputs. Returns the outputs in order."""
        ...


def _place(partition: Partition, stages: _Stages, session: Any, unit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add every stage to the session's graph, on the `unit` (type of device) of its server. Returns the graph's tensors
    for the model's inputs and for its outputs, by name."""
    import tensorflow as tf

    plan = partition.plan
    with session.graph.as_default():  # only here: during requests, the local model must run eagerly
        edges = [plan.edges[name] for name in plan.inputs if name in plan.edges]
        feeds = {edge.name: tf.compat.v1.placeholder(edge.dtype, edge.shape) for edge in edges}
        tensors = dict(feeds)
        for number, stage in enumerate(plan.stages):
            given = [tensors[name] for name in stage.inputs]
            with tf.device(f"/job:{JOB}/replica:0/task:{partition.placement[stage.name]}/device:{unit}"):
                made = stages.add(session, stage, given, f"stage-{number}")
            tensors.update(zip(stage.outputs, made, strict=True))
    session.graph.finalize()
    return feeds, {name: tensors[name] for name in plan.outputs}


class _Frozen:
    """Stages whose variables are constants. Raises `PartitionError` for a stage with lookup tables."""

    def __init__(self, program: Program, partition: Partition, folder: Path) -> None:
        self._functions = {stage.name: self._freeze(program, stage) for stage in partition.plan.stages}

    def _freeze(self, program: Program, stage: Stage) -> Any:
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        function = program.function(stage)
        infos = [program.graph.tensors[name] for name in stage.inputs]
        signature = [tf.TensorSpec(info.shape, info.dtype) for info in infos]
        with program.tracing(stage):
            traced = tf.function(lambda *tensors: function(tensors), input_signature=signature)
            frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
        if len(frozen.inputs) != len(stage.inputs):
            raise PartitionError(
                f"stage {stage.name!r} has lookup tables, which cannot be frozen; use the engine graph"
            )
        return frozen

    def add(self, session: Any, stage: Stage, given: Sequence[Any], scope: str) -> list[Any]:
        import tensorflow as tf

        frozen = self._functions[stage.name]
        taken = {tensor.op.name: value for tensor, value in zip(frozen.inputs, given, strict=True)}
        names = [tensor.name for tensor in frozen.outputs]
        return list(tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), taken, names, name=scope))


class _Saved:
    """Stages as the SavedModels that model servers load, with their variables and tables."""

    def __init__(self, program: Program, partition: Partition, folder: Path) -> None:
        from partitioning.export import export

        self._folder = folder
        self._served = export(program, partition.plan, folder)

    def add(self, session: Any, stage: Stage, given: Sequence[Any], scope: str) -> list[Any]:
        import tensorflow as tf

        keys = self._served.keys
        loaded = tf.compat.v1.saved_model.load(
            session,
            ["serve"],
            str(self._served.model_folder(self._folder, stage)),
            import_scope=scope,
            input_map={
                f"serving_default_{keys[name]}:0": value for name, value in zip(stage.inputs, given, strict=True)
            },
        )
        outputs = loaded.signature_def["serving_default"].outputs
        return [session.graph.get_tensor_by_name(f"{scope}/{outputs[keys[name]].name}") for name in stage.outputs]


STAGES: Mapping[str, Callable[[Program, Partition, Path], _Stages]] = {"graph": _Saved, "frozen": _Frozen}
"""Engine -> the class that adds the stages to a graph."""
