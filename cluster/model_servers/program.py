"""The process of a model server: it runs the model server of this project, or starts a program that serves instead."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cluster.config import ModelServerConfig
from cluster.launchers.base import START
from cluster.manifest import verify
from transports.address import Address
from transports.errors import UsageError
from transports.process import MALLOPT, StopSignal

GRACE = 10.0
"""Seconds within which a program has to end before it is killed."""
PR_SET_PDEATHSIG = 1


def serve(
    config: ModelServerConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Callable[[], None]]:
    """Serve the models until `stack` closes. Returns once every model is available.

    Returns the addresses by interface, and a function to call at the end, which raises `SystemExit` with the status of
    the program, if one was started. Raises `Tampered` for files that differ from those in `config`, `UsageError` for
    models that cannot be served, a `WireError` if the program does not serve them, and `SystemExit` if the program ends
    before that.
    """
    folder = Path(config.folder).absolute()
    models = folder / "models.config"  # in the folder of the models, which `in_docker.sh` mounts
    models.unlink(missing_ok=True)
    verify(folder, config.files)
    from tfserving.config import write_config

    write_config({model: folder / model for model in config.models}, models)
    if config.binary:
        return _program(config, models, stack, stop)
    from tfserving import server

    options = server.Options(
        model_config_file=models,
        host=config.bind,
        port=0,
        rest_api_port=0,
        tensorflow_session_parallelism=config.threads,
        malloc=config.malloc,
        tensor_content=config.tensor_content,
    )
    return server.serve(options, stack), lambda: None


def _program(
    config: ModelServerConfig, models: Path, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Callable[[], None]]:
    from tfserving.grpc_client import Client

    with _reserved_ports(config.bind) as (grpc, rest):
        flags = [f"--port={grpc}", f"--rest_api_port={rest}", f"--model_config_file={models}"]
        flags += [f"--tensorflow_session_parallelism={config.threads}"] if config.threads else []
        program = _started([config.binary, *flags], config, stack)
        threading.Thread(target=_stop_after, args=(program, stop), daemon=True).start()

        def exit_with_program() -> None:
            if stop.wait(0):
                status = program.returncode or 0  # None while the program runs, because this process was stopped
                raise SystemExit(status if status >= 0 else 128 - status)

        with Client(Address(config.bind, grpc)) as client:
            for model in config.models:
                client.wait_available(model, START, exit_with_program)
    return {"grpc": Address(config.bind, grpc), "rest": Address(config.bind, rest)}, exit_with_program


def _stop_after(program: subprocess.Popen[bytes], stop: StopSignal) -> None:
    program.wait()
    stop.set()


def _started(command: list[str], config: ModelServerConfig, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """Start a program that ends with `stack`; on Linux the kernel also kills it if this process is killed.

    Raises `UsageError` for a program that cannot be run.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(f"binary: {config.binary!r} cannot be run: No such file, or no right to execute it")
    keep = {f"MALLOC_{name.removeprefix('M_')}_": str(value) for name, (_, value) in MALLOPT.items()}  # mallopt(3)
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **(keep if config.malloc == "keep" else {}), **os.environ},
            preexec_fn=_die_with_parent,  # safe: this process has started no thread yet
        )
    except OSError as error:
        raise UsageError(f"binary: {config.binary!r} cannot be run: {error.strerror}") from error

    def end() -> None:
        program.terminate()
        try:
            program.wait(GRACE)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    stack.callback(end)
    return program


def _die_with_parent() -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _reserved_ports(host: str) -> Iterator[tuple[int, int]]:
    """Two free ports, which the system assigns to no other program during the block, but which a program may bind.

    The real server does not accept port 0, binds its ports only after seconds, and would share a port with another
    server. Each socket here is bound first, then allows other sockets to bind its port too, and never listens.
    """
    with socket.socket() as first, socket.socket() as second:
        for held in (first, second):
            held.bind((host, 0))
            for option in (socket.SO_REUSEADDR, getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)):
                held.setsockopt(socket.SOL_SOCKET, option, 1)
        yield first.getsockname()[1], second.getsockname()[1]
