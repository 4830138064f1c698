"""A server of TensorFlow's own runtime, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from cluster.config import TensorFlowServerConfig
from transports.address import Address

_HELD: list[tf.distribute.Server] = []
"""Keeps the server until the process ends: TensorFlow cannot stop a server, and blocks for ever if it is deleted."""


def serve(config: TensorFlowServerConfig, settings: Mapping[str, int | str]) -> Mapping[str, Address]:
    """Serve sessions on a free port. `settings`: the thread counts that `cluster.process.tune` has set."""
    threads = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=settings["intra_op"], inter_op_parallelism_threads=settings["inter_op"]
    )
    server = tf.distribute.Server.create_local_server(config=threads)
    _HELD.append(server)
    return {"grpc": Address(config.bind, int(server.target.rpartition(":")[2]))}
