"""`python -m tfserving.server`: a model server that answers as TensorFlow Serving does, over `tf.saved_model`.

It prints one line `READY grpc=HOST:PORT rest=HOST:PORT` when every model is loaded, and ends on SIGTERM, on Ctrl-C, or
(`--until-eof`) when its standard input closes. The flags have the names of `tensorflow_model_server`'s. It does not
watch folders for new versions, and has no batching, no classify and no regress.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

from tfserving.config import Model, read_config
from transports import check_host
from transports.address import Address
from transports.errors import SplitbenchError, UsageError
from transports.limits import Limits
from transports.process import MALLOC, StopSignal, freeze_garbage, keep_memory, ready_line

WORKERS = 4 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Options:
    """The flags of the command line, each with its arguments for `argparse`."""

    model_base_path: Annotated[
        Path | None, {"type": Path, "metavar": "FOLDER", "help": "one model: the folder of its versions"}
    ] = None
    model_config_file: Annotated[
        Path | None, {"type": Path, "metavar": "FILE", "help": "several models: a ModelServerConfig in text form"}
    ] = None
    model_name: Annotated[str, {"metavar": "NAME", "help": "name of the model in --model_base_path"}] = "default"
    host: Annotated[str, {"help": "address to bind; the real server binds all"}] = "127.0.0.1"
    insecure: Annotated[
        bool, {"action": "store_true", "help": "bind a --host beyond this machine; nothing is encrypted"}
    ] = False
    port: Annotated[int, {"type": int, "help": "port of gRPC; 0: a free one"}] = 8500
    rest_api_port: Annotated[
        int | None, {"type": int, "metavar": "PORT", "help": "port of REST; 0: a free one; None: no REST"}
    ] = None
    grpc_max_threads: Annotated[int, {"type": int, "metavar": "N", "help": "requests at a time over gRPC"}] = WORKERS
    rest_api_num_threads: Annotated[int, {"type": int, "metavar": "N", "help": "requests at a time over REST"}] = (
        WORKERS
    )
    tensorflow_session_parallelism: Annotated[
        int, {"type": int, "metavar": "N", "help": "threads; 0: one per core"}
    ] = 0
    malloc: Annotated[str, {"choices": MALLOC, "help": "keep freed memory for the next message, or return it"}] = "keep"
    tensor_content: Annotated[
        bool, {"action": "store_true", "help": "answer with bytes; the real server answers with lists of values"}
    ] = False


def serve(options: Options, stack: contextlib.ExitStack) -> Mapping[str, Address]:
    """Load every model and serve until `stack` closes; returns the address of each interface.

    Raises `UsageError` for models that cannot be served and for a host that may not be bound, and `ConnectError` for a
    port that cannot be bound. Models are looked up before TensorFlow is loaded, so a wrong flag is refused at once.
    """
    check_host(options.host, Limits(), options.insecure)
    if options.model_config_file:
        chosen = read_config(options.model_config_file)
    else:
        assert options.model_base_path is not None
        chosen = (Model.latest(options.model_name, options.model_base_path),)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    gc.disable()  # while TensorFlow and the models load, garbage collection would walk all of their objects repeatedly
    _configure(options.tensorflow_session_parallelism, options.malloc)
    from tfserving import models
    from tfserving.grpc_server import GrpcServer
    from tfserving.rest_server import RestServer

    loaded = models.load(chosen)
    freeze_garbage()
    gc.enable()
    server = GrpcServer(loaded, options.host, options.port, options.grpc_max_threads, content=options.tensor_content)
    stack.callback(server.close)
    if options.rest_api_port is None:
        return {"grpc": server.address}
    rest = RestServer(loaded, options.host, options.rest_api_port, options.rest_api_num_threads)
    stack.callback(rest.close)
    return {"grpc": server.address, "rest": rest.address}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0 ended by a signal, 1 a port cannot be bound, 2 a value cannot be used."""
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
    """Set TensorFlow's threads (0: its own choice) and what happens to freed memory, before TensorFlow runs."""
    import tensorflow as tf

    if malloc == "keep":
        keep_memory()
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and adds the defaults."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.server",
        description=__doc__,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    models = parser.add_mutually_exclusive_group(required=True)
    for name, hint in get_type_hints(Options, include_extras=True).items():
        group = models if name in ("model_base_path", "model_config_file") else parser
        group.add_argument(f"--{name}", default=getattr(Options, name), **hint.__metadata__[0])
    parser.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
