"""`python -m tfserving.server`: a model server that answers as TensorFlow Serving does, over `tf.saved_model`.

It prints one line `READY grpc=HOST:PORT rest=HOST:PORT` once every model is loaded, and ends on SIGTERM, on Ctrl-C, or
(`--until-eof`) when its standard input closes. Flags are called as `tensorflow_model_server` calls them; of a port, 0
means a free one. It does not watch folders for new versions, and has neither batching nor classify and regress.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfserving.config import Model, read_config
from transports import check_host
from transports.address import Address
from transports.errors import SplitbenchError, UsageError
from transports.limits import Limits
from transports.process import MALLOC, StopSignal, freeze_garbage, keep_memory, ready_line

WORKERS = 4 * (os.cpu_count() or 1)


def main(argv: Sequence[str] | None = None, announce: Callable[[str], None] | None = None) -> int:
    """Serve until told to end; the exit status: 0 ended, 1 a port cannot be bound, 2 a value cannot be used.

    `announce` takes the READY line; without it, it goes to standard output.
    """
    arguments = _parser().parse_args(argv)
    stop = StopSignal(arguments.until_eof)
    try:
        check_host(arguments.host, Limits(), arguments.insecure)
        with contextlib.ExitStack() as stack:
            addresses = _serve(arguments, stack)
            line = ready_line(addresses)
            announce(line) if announce else print(line, flush=True)
            stop.wait()
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _serve(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Mapping[str, Address]:
    config = arguments.model_config_file
    chosen = read_config(config) if config else (Model.latest(arguments.model_name, arguments.model_base_path),)
    # TensorFlow is loaded here and not before: a wrong flag is answered at once.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _configure(arguments.tensorflow_session_parallelism, arguments.malloc)
    from tfserving import models
    from tfserving.grpc_server import GrpcServer
    from tfserving.rest_server import RestServer

    loaded = models.load(chosen)
    freeze_garbage()
    server = GrpcServer(
        loaded, arguments.host, arguments.port, arguments.grpc_max_threads, content=arguments.tensor_content
    )
    stack.callback(server.close)
    if arguments.rest_api_port is None:
        return {"grpc": server.address}
    rest = RestServer(loaded, arguments.host, arguments.rest_api_port, arguments.rest_api_num_threads)
    stack.callback(rest.close)
    return {"grpc": server.address, "rest": rest.address}


def _configure(threads: int, malloc: str) -> None:
    """Set TensorFlow's threads (0: its own choice) and the C library's memory before TensorFlow runs."""
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
    add("--model_name", default="default", metavar="NAME", help="of the one model (%(default)s)")
    add("--host", default="127.0.0.1", help="address to bind; the real server binds every one (%(default)s)")
    add("--insecure", action="store_true", help="bind a --host beyond this machine: nothing is encrypted")
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
