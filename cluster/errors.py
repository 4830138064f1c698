"""What can go wrong in a cluster, on top of the tree of `transports.errors`.

SplitbenchError
├── ClusterDown         a process of the cluster ended, or never became ready
└── WireError
    ├── NoServer        nobody holds the stage that awaits a tensor
    ├── NoPortion       every portion of the model is taken, or the server is not known
    ├── NotAwaited      a tensor came that no stage of this server awaits
    └── StageFailed     executing a stage raised
"""

from __future__ import annotations

from transports.errors import SplitbenchError, WireError

__all__ = ["ClusterDown", "NoPortion", "NoServer", "NotAwaited", "StageFailed"]


class ClusterDown(SplitbenchError):
    """A process of the cluster ended, or never became ready; the text names it and quotes its last words."""


class NoServer(WireError):
    kind = "no-server"


class NoPortion(WireError):
    kind = "no-portion"


class NotAwaited(WireError):
    kind = "not-awaited"


class StageFailed(WireError):
    kind = "stage-failed"
