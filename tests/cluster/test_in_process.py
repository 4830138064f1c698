"""The cluster of the transport `none`."""

from __future__ import annotations

import pytest

import transports
from cluster.in_process import InProcessCluster
from partitioning.errors import PartitionError
from partitioning.program import read
from tests.cluster.plans import chain, placed
from tests.models import MODELS
from transports.errors import ConnectError


def test_a_cluster_that_cannot_load_its_stages_serves_nothing() -> None:
    """The program belongs to another model, so no node can be made."""
    transport = transports.make("none")
    cluster = InProcessCluster([placed(chain(2), [0, 1])], read(MODELS["sequential"]()), transport)
    with pytest.raises(PartitionError, match="which this program has not"), cluster:
        pass
    with pytest.raises(ConnectError):
        transport.connect(cluster.registries["none"])
