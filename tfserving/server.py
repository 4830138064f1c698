"""`python -m tfserving.server`: a model server that answers as TensorFlow Serving does, over `tf.saved_model`.

It prints one line `READY grpc=HOST:PORT rest=HOST:PORT` once every model is loaded, and ends on SIGTERM, on Ctrl-C, or
(`--until-eof`) when its standard input closes. The flags have the names that `tensorflow_model_server` gives them; port
0 is a free one. It does not watch folders for new versions, and has no batching, no classify and no regress.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfserving.config import Model, read_config
from transports import check_host
from transports.address import Address
from transports.errors import SplitbenchError, UsageError
from transports.limits import Limits
from transports.process import MALLOC, StopSignal, freeze_garbage, keep_memory, ready_line

WORKERS = 4 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Options:
    """What a server holds, where it listens, and how it runs: the flags of the command line."""

    model_config_file: Path | None = None
    """A `ModelServerConfig` in text form; None: the one model below `model_base_path`."""
    model_base_path: Path | None = None
    model_name: str = "default"
    host: str = "127.0.0.1"
    insecure: bool = False
    """Bind a `host` beyond this machine; nothing is encrypted."""
    port: int = 8500
    """Of gRPC; 0: a free one."""
    rest_api_port: int | None = None
    """0: a free one; None: no REST."""
    grpc_max_threads: int = WORKERS
    """Requests handled at a time."""
    rest_api_num_threads: int = WORKERS
    tensorflow_session_parallelism: int = 0
    """Threads; 0: one a core."""
    malloc: str = "keep"
    tensor_content: bool = False
    """Answer with bytes; the real server answers with lists of values."""


def serve(options: Options, stack: contextlib.ExitStack) -> Mapping[str, Address]:
    """Load every model and serve until `stack` closes; the address that each interface has bound.

    Raises `UsageError` for models that cannot be served and a host that may not be bound, `ConnectError` for a port
    that cannot be bound. TensorFlow is loaded only once the models were found, so that a wrong flag is refused at once.
    """
    check_host(options.host, Limits(), options.insecure)
    if options.model_config_file:
        chosen = read_config(options.model_config_file)
    else:
        assert options.model_base_path is not None
        chosen = (Model.latest(options.model_name, options.model_base_path),)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _configure(options.tensorflow_session_parallelism, options.malloc)
    from tfserving import models
    from tfserving.grpc_server import GrpcServer
    from tfserving.rest_server import RestServer

    loaded = models.load(chosen)
    freeze_garbage()
    server = GrpcServer(loaded, options.host, options.port, options.grpc_max_threads, content=options.tensor_content)
    stack.callback(server.close)
    if options.rest_api_port is None:
        return {"grpc": server.address}
    rest = RestServer(loaded, options.host, options.rest_api_port, options.rest_api_num_threads)
    stack.callback(rest.close)
    return {"grpc": server.address, "rest": rest.address}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 ended by a signal, 1 a port cannot be bound, 2 a value cannot be used."""
    given = vars(_parser().parse_args(argv))
    stop = StopSignal(given.pop("until_eof"))
    try:
        with contextlib.ExitStack() as stack:
            print(ready_line(serve(Options(**given), stack)), flush=True)
            stop.wait()
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _configure(threads: int, malloc: str) -> None:
    """Set TensorFlow's threads (0: its own choice), and keep freed memory, before TensorFlow runs."""
    import tensorflow as tf

    if malloc == "keep":
        keep_memory()
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model_base_path", type=Path, metavar="FOLDER", help="one model: the folder of its versions")
    which.add_argument("--model_config_file", type=Path, metavar="FILE", help="several: a ModelServerConfig as text")
    add("--model_name", default="default", metavar="NAME", help="name of that one model (%(default)s)")
    add("--host", default="127.0.0.1", help="address to bind; the real server binds all (%(default)s)")
    add("--insecure", action="store_true", help="bind a --host beyond this machine; nothing is encrypted")
    add("--port", type=int, default=8500, help="of gRPC (%(default)s)")
    add("--rest_api_port", type=int, default=None, metavar="PORT", help="of REST (none)")
    add("--grpc_max_threads", type=int, default=WORKERS, metavar="N", help="requests at a time (%(default)s)")
    add("--rest_api_num_threads", type=int, default=WORKERS, metavar="N", help="requests at a time (%(default)s)")
    add("--tensorflow_session_parallelism", type=int, default=0, metavar="N", help="threads; 0: one a core (0)")
    add("--malloc", choices=MALLOC, default="keep", help="keep freed memory for the next message, or not (%(default)s)")
    add("--tensor_content", action="store_true", help="answer with bytes; the real server answers with lists of values")
    add("--until-eof", action="store_true", help="end when standard input closes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
