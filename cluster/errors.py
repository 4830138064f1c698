"""What can go wrong in a cluster, on top of the tree of `transports.errors`.

SplitbenchError
├── ClusterDown         a process of the cluster ended, or never became ready
├── Tampered            a file is not the one that was exported
└── WireError
    ├── NoServer        nobody holds the stage that awaits a tensor
    ├── NoPortion       every portion of the model is taken, or that one is
    ├── StaleEpoch      meant for a server that was here before, or a lease that is over
    ├── Draining        the server is about to end, and begins no new request
    ├── NotAwaited      a tensor came that no stage of this server awaits
    └── StageFailed     executing a stage raised
"""

from __future__ import annotations

from transports.errors import SplitbenchError, WireError


class ClusterDown(SplitbenchError):
    """A process of the cluster ended, or never became ready; the text names it and quotes its last words."""


class Tampered(SplitbenchError):
    """A file is not the one that was exported; the text names it."""


class NoServer(WireError):
    kind = "no-server"


class NoPortion(WireError):
    kind = "no-portion"


class StaleEpoch(WireError):
    kind = "stale-epoch"


class Draining(WireError):
    kind = "draining"


class NotAwaited(WireError):
    kind = "not-awaited"


class StageFailed(WireError):
    kind = "stage-failed"
