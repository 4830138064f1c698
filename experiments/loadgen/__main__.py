"""`python -m experiments.loadgen`: measures the cluster of one cell under MLCommons' load generator, LoadGen."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from cluster import scratch
from experiments.cli import exit_status
from experiments.loadgen import drive, options
from experiments.spec.flags import Runs

PROG = "python -m experiments.loadgen"
DESCRIPTION = f"""\
Load one cell as MLCommons' load generator, LoadGen, loads a system under test.

LoadGen decides when each request begins, measures its latency and writes its own logs, which are kept unchanged:
  - single-stream: one query of one sample at a time
  - multi-stream: one query of --samples-per-query samples at a time
  - server: queries at random (Poisson) at --target-qps, with a bound for their 99th percentile (--target-latency)
  - offline: all samples at once
A sample is a request of --batch images. Each answer is checked; a wrong one ends the run.

{textwrap.fill(options.NO_RESULT, 118)}

The other flags are those of a run, with one value each. Not valid here: --load, --concurrency, --runs and all else that
LoadGen decides. Needs the extra `loadgen`: pip install 'splitbench[loadgen]'"""

EPILOG = """\
examples:
  %(prog)s --transport grpc --mode submodel --engine frozen
  %(prog)s --transport tcp --mode submodel --scenario single-stream,multi-stream,server,offline --target-qps 20
  %(prog)s --mode submodel --scenario server --target-qps 50 --target-latency 80 --min-duration 60

exit status: 0 done; 1 the run failed, and what was measured is kept; 2 a value cannot be used; 130 interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the scenarios; the exit status: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted.

    If LoadGen still runs a test at the end (`drive.running`), this ends the process with the status instead of
    returning it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = exit_status(lambda: _main(words, prog))
    except Exception:
        if not drive.running():
            raise
        traceback.print_exc()
        status = 1
    if drive.running():
        scratch.leave()
        os._exit(status)
    return status


def _main(words: Sequence[str], prog: str) -> int:
    given, experiment, folder = options.read(words, prog, (DESCRIPTION, EPILOG))
    drive.library()
    from experiments.execute import check  # not for --help, nor for flags that are refused
    from experiments.loadgen import measure

    check(Runs(((experiment, folder),), (), ()))
    measure.run(given, experiment, folder, words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
