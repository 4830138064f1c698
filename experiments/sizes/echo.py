"""The echo process of `experiments.sizes`: it answers every message with the same message.

python -m experiments.sizes.echo grpc rpyc      # READY grpc=127.0.0.1:40001 rpyc=127.0.0.1:40002
python -m experiments.sizes.echo grpc --option grpc.max_message=700000000

It ends when its standard input closes, on SIGTERM and on Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import transports
from experiments.sizes.bare import BARE, HOST
from transports import Address, Message
from transports.errors import SplitbenchError, UsageError
from transports.process import MALLOC, StopSignal, command, keep_memory, parse_ready

WORKERS = 4
GRACE = 10.0
"""Seconds after which a process that has not ended is killed."""


class EchoFailed(SplitbenchError):
    """The process did not start; the text has the last line that it wrote (exit status 1)."""


def echo(message: Message) -> Message:
    return message


@contextlib.contextmanager
def process(
    *names: str, options: Mapping[str, str] = {}, malloc: str = MALLOC[0]
) -> Iterator[tuple[dict[str, Address], subprocess.Popen[str]]]:
    """Start a process that echoes over the transports `names`: its addresses by transport, and the process.

    Raises `EchoFailed` if it does not start. On exit the process has ended.
    """
    given = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    with tempfile.TemporaryFile("w+") as log, _started([*names, *given, "--malloc", malloc], log) as child:
        assert child.stdout is not None
        ready, *words = child.stdout.readline().split() or [""]
        if ready != "READY":
            child.wait(GRACE)
            log.seek(0)
            raise EchoFailed(f"the echo process did not start: {(log.read().strip().splitlines() or ['?'])[-1]}")
        yield parse_ready(words), child


@contextlib.contextmanager
def _started(arguments: Sequence[str], log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """Start the process in a session of its own, so that Ctrl-C reaches only the measuring program, which then ends the
    process."""
    child = subprocess.Popen(
        command(__name__, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    with child:
        try:
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the end of standard input. Exit status: 0, 1 if a port cannot be bound, 2 for an unusable value."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sizes.echo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="TRANSPORT", help="each gets a free port; bare-NAME: a library alone"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME.KEY=VALUE", help="of one transport")
    parser.add_argument("--malloc", choices=MALLOC, default=MALLOC[0], help="keep freed memory for the next message")
    given = parser.parse_args(argv)
    if given.malloc == "keep":
        keep_memory()
    stop = StopSignal(until_eof=True)
    try:
        options = transports.parse_options(given.option)
        made = {name: transports.make(name, options) for name in given.names if name not in BARE}
        with contextlib.ExitStack() as servers:
            serving = {
                name: servers.enter_context(transport.serve(echo, HOST, 0, WORKERS)).address
                for name, transport in made.items()
            }
            serving |= {
                name: Address(HOST, servers.enter_context(BARE[name].serve())) for name in given.names if name in BARE
            }
            print("READY", *(f"{name}={address}" for name, address in serving.items()), flush=True)
            stop.wait()
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
