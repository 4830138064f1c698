"""How long one echo takes over each transport, from one process to another and back.

    python tests/transports/bench_echo.py                 # every transport: 0.3 MB, one number, and a new connection
    python tests/transports/bench_echo.py grpc rpyc --calls 400
    python tests/transports/bench_echo.py --sizes 0.1,1,4,16,64  # how they grow: unary, stream, rpyc, rpyc-tuned

The transports alternate in short blocks whose first calls are not counted, so that the machine's drift meets all alike:
the ratios of one run say more than its seconds. `connect` is what a new connection for one message costs, kept or not.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
WAYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "grpc unary": ("grpc", {}),
    "grpc stream": ("grpc", {"grpc.send": "stream"}),
    "rpyc-tuned": ("rpyc-tuned", {}),
    "rpyc": ("rpyc", {}),
}
"""Column -> the transport and the options with which sizes are compared."""
MOST = {"rpyc": 64.0}
"""Column -> megabytes above which it is left out: it would take minutes."""
PATIENCE = 120.0
Cell = tuple[str, str]
Actions = dict[Cell, Callable[[], object]]


@contextmanager
def echo_process(*names: str, options: Mapping[str, str] = {}) -> Iterator[tuple[dict[str, Address], int]]:
    """The addresses and the id of a process that echoes over `names`, made with `options`."""
    given = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    command = [sys.executable, str(ECHO_SERVER), *names, *given]
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


def caller(connection: Connection, message: Message) -> Callable[[], object]:
    return lambda: connection.call(message, PATIENCE)


def cells(names: list[str], found: dict[str, Address], stack: ExitStack) -> Actions:
    """(name, what) -> what is timed."""
    actions: Actions = {}
    for name in names:
        transport = transports.make(name)
        for codec in transport.codecs:
            connection = stack.enter_context(transport.connect(found[name], codec))
            for what, message in MESSAGES.items():
                actions[f"{name}/{codec}", what] = caller(connection, message)
        actions[f"{name}/{transport.codecs[0]}", "connect"] = lambda t=transport, a=found[name]: once(t, a)  # type: ignore[misc]
    return actions


def measure(actions: Actions, calls: int, block: int = BLOCK) -> dict[Cell, list[float]]:
    """Seconds of each call, taken in randomised blocks; the first two of a block (one, of a short one) do not count."""
    samples: dict[Cell, list[float]] = defaultdict(list)
    order = list(actions)
    first = 2 if block >= BLOCK else 1
    for _ in range(max(1, calls // block)):
        random.shuffle(order)
        for cell in order:
            samples[cell] += [seconds(actions[cell]) for _ in range(block + first)][first:]
    return samples


def compare_transports(names: list[str], calls: int) -> None:
    with echo_process(*names) as (found, _), ExitStack() as stack:
        samples = measure(cells(names, found, stack), calls)
    best = {what: min(statistics.median(v) for (_, w), v in samples.items() if w == what) for _, what in samples}
    print(f"{'transport':20} {'message':8} {'median':>9} {'p90':>9}  x fastest")
    for (name, what), times in sorted(samples.items(), key=lambda cell: cell[0][::-1]):
        median, p90 = statistics.median(times), statistics.quantiles(times, n=10)[-1]
        print(f"{name:20} {what:8} {median * 1e3:6.3f} ms {p90 * 1e3:6.3f} ms  {median / best[what]:.2f}")


def compare_sizes(megabytes: list[float], calls: int) -> None:
    """A row per size: the medians, and each as a ratio to gRPC's unary call. Noise that zlib cannot shrink."""
    print(f"{'MB':>6} " + " ".join(f"{way:>12}" for way in WAYS) + "   stream/unary  rpyc/tuned")
    with echo_process(*{name for name, _ in WAYS.values()}) as (found, _), ExitStack() as stack:
        ways = {
            way: stack.enter_context(transports.make(name, options).connect(found[name]))
            for way, (name, options) in WAYS.items()
        }
        for size in megabytes:
            measured = {way: connection for way, connection in ways.items() if size <= MOST.get(way, size)}
            print(row(size, measured, max(2, min(calls, int(calls / size)))), flush=True)


def row(size: float, ways: Mapping[str, Connection], calls: int) -> str:
    noise = np.random.default_rng(0).integers(0, 256, int(size * 1e6), np.uint8)
    message = Message("echo", {}, {"x": noise})
    actions: Actions = {(way, "echo"): caller(connection, message) for way, connection in ways.items()}
    samples = measure(actions, calls, min(BLOCK, max(1, calls // 3)))
    median = {way: statistics.median(samples.get((way, "echo"), [math.nan])) for way in WAYS}
    ratios = (median["grpc stream"] / median["grpc unary"], median["rpyc"] / median["rpyc-tuned"])
    columns = " ".join(f"{median[way] * 1e3:9.1f} ms" for way in WAYS)
    return f"{size:6g} {columns}   {ratios[0]:12.2f}  {ratios[1]:10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[name for name in transports.NAMES if name != "none"])
    parser.add_argument("--calls", type=int, default=200, help="of each; with --sizes of each at 1 MB, fewer above")
    parser.add_argument("--sizes", help="megabytes, with commas between: compare how the transports grow")
    options = parser.parse_args()
    if options.sizes:
        compare_sizes([float(size) for size in options.sizes.split(",")], options.calls)
    else:
        compare_transports(options.names, options.calls)


if __name__ == "__main__":
    main()
