"""The registry and the nodes of an experiment, on its machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cluster import scratch
from cluster.launch import Cluster, Settings
from cluster.machines import Machines
from cluster.model_servers.servers import ModelServers
from cluster.partition import export
from cluster.pinning import cores
from experiments.measure.prepare import Prepared
from experiments.measure.progress import Progress
from experiments.spec import machines as spec


@contextlib.contextmanager
def started(prepared: Prepared, progress: Progress, machines: Machines, servers: ModelServers) -> Iterator[Cluster]:
    """Start the registry and nodes for the cells whose nodes run in other processes. Exported files are deleted once
    the nodes have read them."""
    experiment, remote, launcher = prepared.experiment, prepared.chosen(remote=True), machines.launcher
    assert launcher is not None
    with contextlib.ExitStack() as stack:
        with scratch.folder() as exports:
            for partition in remote:
                export(prepared.program, partition, exports)
                progress.phase(f"exported {len(partition.plan.stages)} stages of {partition.name}")
            settings = Settings(
                transports=tuple(name for name in prepared.transports if name != "none"),
                servers=max(partition.servers for partition in remote),
                exports=exports,
                workers=prepared.workers,
                threads=experiment.threads,
                malloc=experiment.malloc,
                device=experiment.hardware,
                options=experiment.options,
                replicas=experiment.replicas,
                lease=experiment.lease,
                hosts=spec.placed(experiment, machines.hosts) if experiment.machines else machines.hosts,
                identity=machines.identity,
                insecure=experiment.insecure == "on",
                model_servers=servers.addresses(progress.phase),
                cores=tuple(cores()) if experiment.pin == "on" else (),
            )
            cluster = stack.enter_context(Cluster(settings, launcher, progress.phase))
        yield cluster
