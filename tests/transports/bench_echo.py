"""How long one echo takes over each transport, from one process to another and back.

    python tests/transports/bench_echo.py                 # every transport, 0.3 MB of float32 and one number
    python tests/transports/bench_echo.py grpc rpyc --calls 400

The transports alternate in short blocks whose first calls are not counted, so that the machine's drift meets all alike.
`connect` is what a new connection for one message costs, kept or not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

import transports
from transports import Address, Connection, Message, Transport

ECHO_SERVER = Path(__file__).with_name("echo_server.py")
MESSAGES = {
    "0.3 MB": Message(
        "echo", {"request": 1}, {"x": np.zeros(75_000, np.float32) + np.arange(75_000, dtype=np.float32)}
    ),
    "tiny": Message("echo", {"request": 1}, {"x": np.ones(1, np.float32)}),
}
BLOCK = 10


@contextmanager
def echo_process(*names: str) -> Iterator[tuple[dict[str, Address], int]]:
    """The addresses and the id of a process that echoes over `names`."""
    command = [sys.executable, str(ECHO_SERVER), *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, *pairs = process.stdout.readline().split() or ["nothing"]
        assert ready == "READY", ready
        yield (
            {name: Address.parse(address) for name, _, address in (pair.partition("=") for pair in pairs)},
            process.pid,
        )
        process.stdin.close()
        process.wait(10)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def once(transport: Transport, address: Address) -> None:
    transport.connect(address).close()


def cells(names: list[str], found: dict[str, Address], stack: ExitStack) -> dict[tuple[str, str], Callable[[], object]]:
    """(name, what) -> what is timed."""
    actions: dict[tuple[str, str], Callable[[], object]] = {}
    for name in names:
        transport = transports.load(name)()
        for codec in transport.codecs:
            connection: Connection = stack.enter_context(transport.connect(found[name], codec))
            for what, message in MESSAGES.items():
                actions[f"{name}/{codec}", what] = lambda c=connection, m=message: c.call(m, 10.0)  # type: ignore[misc]
        actions[f"{name}/raw", "connect"] = lambda t=transport, a=found[name]: once(t, a)  # type: ignore[misc]
    return actions


def measure(actions: dict[tuple[str, str], Callable[[], object]], calls: int) -> dict[tuple[str, str], list[float]]:
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    order = list(actions)
    for _ in range(max(1, calls // BLOCK)):
        random.shuffle(order)
        for cell in order:
            times = [seconds(actions[cell]) for _ in range(BLOCK + 2)]
            samples[cell] += times[2:]
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[name for name in transports.NAMES if name != "none"])
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    with echo_process(*options.names) as (found, _), ExitStack() as stack:
        samples = measure(cells(options.names, found, stack), options.calls)
    best = {what: min(statistics.median(v) for (_, w), v in samples.items() if w == what) for _, what in samples}
    print(f"{'transport':20} {'message':8} {'median':>9} {'p90':>9}  x fastest")
    for (name, what), times in sorted(samples.items(), key=lambda cell: cell[0][::-1]):
        median, p90 = statistics.median(times), statistics.quantiles(times, n=10)[-1]
        print(f"{name:20} {what:8} {median * 1e3:6.3f} ms {p90 * 1e3:6.3f} ms  {median / best[what]:.2f}")


if __name__ == "__main__":
    main()
