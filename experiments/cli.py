"""`splitbench COMMAND ...`, and the same as `python -m experiments COMMAND ...`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from partitioning import command_line
from partitioning.errors import PartitionError
from partitioning.options import hint
from transports.errors import SplitbenchError, UsageError

PROG = "splitbench"

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("experiments.run", "time a model, split and carried in different ways, against the model run locally"),
    "show": ("partitioning.show", "show where a model would be cut, and what crosses each cut"),
    "export": ("partitioning.export", "write every stage of a plan as a SavedModel for model servers"),
    "profile": ("experiments.profile.__main__", "measure what a model costs on each host and over each transport"),
    "advise": ("experiments.advise.__main__", "say which cut, which hosts and which transport, from a profile"),
    "report": ("experiments.report", "derive tables, report and chart of a results folder again"),
    "compare": ("experiments.compare.__main__", "say which cells differ between two results folders"),
    "trace": ("experiments.trace.__main__", "show where the time of traced requests went, or send their spans on"),
    "ladder": ("experiments.ladder.__main__", "measure the steps from a local model to a request over a transport"),
    "loadgen": ("experiments.loadgen.__main__", "load one cell as MLCommons' LoadGen does (no MLPerf result)"),
    "simulate": ("experiments.simulate.__main__", "simulate more hosts, replicas and clients from a measured cell"),
    "sizes": ("experiments.sizes.__main__", "time messages of growing size over every transport"),
    "threads": ("experiments.threads.__main__", "show how many workers nested calls need, and what happens with fewer"),
}
"""Command -> the module whose `main` runs it, and its purpose."""

HELP = f"""\
usage: {PROG} COMMAND [flags]

Compare ways to distribute the inference of a Keras model over several servers: where to cut it, and what carries its
tensors.

commands:
{{commands}}

examples:
  {PROG} show --mode submodel --servers 5                # where the model would be cut
  {PROG} run --transport none,rpyc,grpc --mode submodel  # time it over three transports
  {PROG} report results/reference/seed-layer             # derive a report again
  {PROG} COMMAND --help                                  # all flags of a command, with examples

exit status: 0 done; 1 the run failed; 2 a value cannot be used; 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names, and return its exit status. Without a command, print the list of commands."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())))
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: no command {name!r}{hint(name, COMMANDS)}", file=sys.stderr)
        return 2
    status: int = importlib.import_module(COMMANDS[name][0]).main(rest, f"{PROG} {name}")
    return status


def exit_status(work: Callable[[], int]) -> int:
    """`command_line.exit_status` with this program's errors: 2 for a value that cannot be used, 1 for a failed run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return command_line.exit_status(work, refused=(UsageError, PartitionError), failed=(SplitbenchError, OSError))
