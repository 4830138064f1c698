"""The errors of a cluster, as subclasses of the errors in `transports.errors`.

SplitbenchError
├── ClusterDown         a process of the cluster ended, or never became ready
├── Tampered            a file differs from the exported file
└── WireError
    ├── NoServer        no server holds the stage that awaits a tensor
    ├── NoPortion       the portion that a server claims, or every portion, is taken
    ├── StaleEpoch      a message names the epoch of an earlier server, or a lease that has ended
    ├── Draining        the server is shutting down and accepts no new request
    ├── NotAwaited      no stage of the server awaits a tensor that arrived
    └── StageFailed     a stage raised an exception
"""

from __future__ import annotations

from transports.errors import SplitbenchError, WireError


class ClusterDown(SplitbenchError):
    """A process of the cluster ended, or never became ready; the text names it and quotes the last line of its log."""


class Tampered(SplitbenchError):
    """A file differs from the exported file; the text names it."""


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
