"""Hosts for tests: network namespaces on a bridge, without a change to this machine's own network.

    with network({"edge": "10.77.0.2", "cloud": "10.77.0.3"}, rates={"edge": "50mbit"}) as net:
        net.run("edge", ["python", "client.py", net.address("cloud")])
        net.cut("cloud")

`python -m tools.hosts --help` does the same from a shell. The hosts share this machine's files, processes and host
name; only their networks are their own.
"""

from __future__ import annotations

from tools.hosts.namespaces import Network, missing, network
from tools.hosts.ssh import sshd

__all__ = ["Network", "missing", "network", "sshd"]
