"""Launchers: they start, watch and end the processes of a cluster."""

from cluster.launchers.base import HINDSIGHT, Launcher, Order
from cluster.launchers.local import LocalLauncher

__all__ = ["HINDSIGHT", "Launcher", "LocalLauncher", "Order"]
