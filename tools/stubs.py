"""Write the protobuf stubs, or check that the committed ones equal the compiler's output.

    python -m tools.stubs
    python -m tools.stubs --check

`grpc_client` and `grpc_server` bind the methods by their path, as a `_pb2_grpc` stub would, so none is generated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = "transports/splitbench.proto"
STUBS = ("transports/splitbench_pb2.py", "transports/splitbench_pb2.pyi")


def compile_to(folder: Path) -> None:
    """Write the stubs of `PROTO` below `folder`, laid out as in the repository. `SystemExit` without a compiler."""
    if find_spec("grpc_tools") is None:
        raise SystemExit("the compiler is missing: pip install 'grpcio-tools==1.80.*'")
    # In a separate process: the compiler crashes beside TensorFlow, which contains its own protobuf.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={folder}", f"--pyi_out={folder}"]
    if subprocess.run([*command, PROTO], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"the compiler refused {PROTO}")


def stale() -> list[str]:
    """The committed stubs that differ from the compiler's output."""
    with tempfile.TemporaryDirectory() as folder:
        compile_to(Path(folder))
        return [stub for stub in STUBS if _text(ROOT / stub) != _text(Path(folder) / stub)]


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 if `--check` finds a stub that differs from the compiler's output."""
    parser = argparse.ArgumentParser(prog="python -m tools.stubs", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a stub is out of date")
    if not parser.parse_args(arguments).check:
        compile_to(ROOT)
        return 0
    for stub in (found := stale()):
        compiler = f"grpcio-tools {version('grpcio-tools')}"
        print(f"{stub} is not what {compiler} makes of {PROTO}: run python -m tools.stubs", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
