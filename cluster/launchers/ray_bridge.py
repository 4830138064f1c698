"""Connects standard input and output to a fork server on a node of a Ray cluster (`transports.process.command`).

    python -m cluster.launchers.ray_bridge ADDRESS survey
    python -m cluster.launchers.ray_bridge ADDRESS NODE CPUS [PYTHON]

This process is a Ray driver, so that the measuring process has none of Ray's threads. It starts one actor
(`cluster.launchers.ray_actor`) on the node, copies its standard input to the actor and the actor's output to its
standard output, and ends with the exit status of the fork server. If it is killed, Ray ends the actor.

exit status: 2 if no cluster or node can be used; the last line on standard error says why.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections import deque
from typing import Any

import msgspec

from cluster.launchers import fork_server, ray_actor
from cluster.launchers.pipe import ending
from cluster.launchers.ray_nodes import Node

PIECE = 2**20
"""Most bytes of input in one call."""
INLINE = 96 * 1024
"""Most bytes of an argument or result. Ray sends larger ones (above 100 KB) through its object store, more slowly."""
OUTSTANDING = 4
"""Most calls with input that are under way at a time."""
THREADS = OUTSTANDING + 8
"""Threads of the actor: for calls with input, and for calls that wait for output, for the end, or for nothing."""
LINE = 500
"""Most characters of Ray's text in an error text."""
LOG = 16384
"""Bytes from the end of the fork server's log that are shown."""
CREATE = 12.0
"""Seconds within which Ray has to start the actor, less than the launcher waits (`piped.HELLO`)."""
LIMITS = {
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_gcs_server_port_wait_time_s": "3",
    "RAY_NUM_REDIS_GET_RETRIES": "3",
}
"""Ray's environment variables for this process alone: seconds to find the node on this machine; attempts to reach the
head, one per second, in newer and older versions of Ray."""
PING, LOST = 5.0, 10.0
"""Seconds between two checks of whether the actor is alive, and seconds within which it has to answer."""
END = 11.0
"""Seconds within which the fork server has to end: it gives its processes twice 5 s, and the launcher waits 15 s."""
SIGNALS = 128
"""An exit status above this number is this number plus the number of a signal."""
REASONS = {
    "uthentication token ": "it demands a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to that of `ray start`",
    "ersion mismatch": "the cluster and this program need the same versions of Ray and Python: ",
    "No node info found": "this machine is no node of it: join it with `ray start --address=HEAD:PORT`, then repeat",
    "Could not find any running": "no Ray cluster runs here: `ray start --head`, or name one as ray:HOST:PORT",
    "Failed to connect": "no Ray answers there: is its `ray start --head` still running?",
}
"""Part of an error text of Ray -> advice for the user. If the advice ends with a space, Ray's text is appended."""


class Failed(Exception):
    """Ray cannot be used; the text, one line, says why."""


def main() -> int:
    """Run the program. Output of Ray is suppressed, so that the last line on standard error is an error text."""
    events = os.dup(1)
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    address, *words = sys.argv[1:]
    try:
        if words == ["survey"]:
            write(events, msgspec.json.encode(survey(address)))
            return 0
        node, cpus, *python = words
        status = Bridge(address, node, int(cpus), "".join(python), events).run()
    except Failed as failed:
        print(failed, file=sys.stderr)
        status = 2
    sys.stderr.flush()
    os._exit(status)  # a thread may wait for standard input


def survey(address: str) -> list[Node]:
    """The nodes of the cluster. Raises `Failed`."""
    ray = connect(address)
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    here = ray.get_runtime_context().get_node_id()
    return [
        Node(
            identity=node["NodeID"],
            address=node["NodeManagerAddress"],
            name=node["NodeManagerHostname"],
            labels=node["Labels"],
            cpus=node["Resources"].get("CPU", 0.0),
            free=free.get(node["NodeID"], {}).get("CPU", 0.0),
            here=node["NodeID"] == here,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def connect(address: str) -> Any:
    """The module `ray`, connected as a driver. Raises `Failed`."""
    os.environ.update(LIMITS)  # read when Ray is loaded
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray may raise any exception
        raise Failed(reason(error)) from None
    for number in (signal.SIGTERM, signal.SIGINT):  # Ray then ends the actor; its own handler would wait
        signal.signal(number, signal.SIG_DFL)
    return ray


def reason(error: BaseException) -> str:
    """The texts of an error of Ray and of its causes, as one line."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(" ".join(str(cause).split()))
        cause = cause.__cause__ or cause.__context__
    for part, todo in REASONS.items():
        for text in said:
            if part in text:
                return todo + text[:LINE] if todo.endswith(" ") else todo
    return said[0][:LINE] or repr(error)


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Bridge:
    """An actor with a fork server, and the two threads that copy. Raises `Failed` if there is no such actor."""

    def __init__(self, address: str, node: str, cpus: int, python: str, events: int) -> None:
        self._ray = connect(address)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray.cloudpickle.register_pickle_by_value(ray_actor)
        options = {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "num_cpus": cpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": THREADS,
        }
        create = self._ray.remote(ray_actor.Actor).options(**options).remote
        self._actor = create(python, ["-P", "-m", fork_server.__name__])
        self._events = events
        self._over = threading.Event()
        self._status = 1
        self._said = ""
        try:
            self._ray.get(self._actor.alive.remote(), timeout=CREATE)
        except self._ray.exceptions.GetTimeoutError:
            raise Failed(f"Ray starts no actor within {CREATE:.0f} s: end what uses the CPUs of its node") from None
        except self._ray.exceptions.RayError as error:
            raise Failed(died(error)) from None

    def run(self) -> int:
        """Copy until the fork server ends. Returns its exit status as in a shell, or 1 if the actor ended before."""
        ray, actor = self._ray, self._actor
        orders, events = (threading.Thread(target=copy, daemon=True) for copy in (self._orders, self._take))
        orders.start()
        events.start()
        while not self._over.wait(PING):
            try:
                ray.get(actor.alive.remote(), timeout=LOST)
            except ray.exceptions.GetTimeoutError:
                raise Failed(f"the connection is lost: no answer within {LOST:.0f} s") from None
            except ray.exceptions.RayError:
                break
        events.join(END)
        if events.is_alive():
            with contextlib.suppress(ray.exceptions.RayError):
                actor.kill.remote()
            events.join(1.0)
        ray.kill(actor)
        sys.stderr.write(self._said)
        return self._status

    def _orders(self) -> None:
        """Copy standard input to the fork server until its end."""
        ray, send, number = self._ray, self._actor.write.remote, 0
        going: deque[Any] = deque()
        with contextlib.suppress(ray.exceptions.RayError):  # the other thread reports the cause
            while data := os.read(0, PIECE):
                going.append(send(number, *(data[at : at + INLINE] for at in range(0, len(data), INLINE))))
                number += 1
                if len(going) > OUTSTANDING:
                    ray.get(going.popleft())
            send(number)
        self._over.set()

    def _take(self) -> None:
        """Copy the fork server's output to standard output until its end."""
        ray, actor = self._ray, self._actor
        try:
            while data := ray.get(actor.read.remote(INLINE)):
                write(self._events, data)
            self._status, self._said = ray.get(actor.ended.remote(LOG))
            if self._status > SIGNALS:
                self._said += f"\nthe fork server {ending(SIGNALS - self._status)}\n"
        except ray.exceptions.RayError as error:
            self._said = f"{died(error)}\n"
        except OSError:  # the launcher was killed
            pass
        self._over.set()


def died(error: BaseException) -> str:
    """The reason why an actor has died, as one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if "because" in line), lines[-1] if lines else repr(error))
    return f"Ray has lost the actor of the fork server: {said[:LINE]}"


if __name__ == "__main__":
    sys.exit(main())
