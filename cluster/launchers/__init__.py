"""Where the processes of a cluster run, and how they are started, watched and ended there."""

from cluster.launchers.base import HINDSIGHT, Launcher, Order
from cluster.launchers.local import LocalLauncher

__all__ = ["HINDSIGHT", "Launcher", "LocalLauncher", "Order"]
