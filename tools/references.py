"""Measures the reference results anew: `python -m tools.references` all of them, `... ladder wire` only some.

It needs a clean checkout and a quiet machine, and takes two hours to five, by the machine. It measures into
`results/new`, which git ignores, so that every record shows a clean checkout, and replaces the folders at the end. A
folder whose measurement failed stays as it was. Then run `python -m tools.docs_tables` and `make notebook`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REFERENCE, NEW = Path("results/reference"), Path("results/new")
CHEAP = "expanded_conv_4_expand+expanded_conv_7_expand+expanded_conv_11_expand+expanded_conv_13_expand"
HOP = NEW / "five-dense.keras"
"""The model of the reference `hop`: five layers of eight units, which take nearly no time."""
SPECS = (
    *("rivals", "same-cell", "tuned-submodel", "seed-layer", "seed-submodel", "tuned-layer", "wire", "flows"),
    *("serving", "pipeline", "pipeline-light", "faults", "edge-cloud"),
    *("traced", "traced-links", "load-sweep", "compression"),
)
COMMANDS: Mapping[str, str] = {name: f"run --spec experiments/specs/{name}.toml" for name in SPECS} | {
    "faults-replicas": "run --spec experiments/specs/faults.toml --replicas 2",
    "rivals-poll": "run --spec experiments/specs/rivals.toml --idle poll",
    "ladder": "ladder --mode submodel --engine frozen --threads 1 --runs 600 --until-stable 5 --limit 240 "
    f"--idle poll --transport grpc,grpc-tuned,rpyc-tuned,tcp,unix --cut {CHEAP}",
    "hop": f"ladder --model {HOP} --mode submodel --engine frozen --threads 1 --runs 2000 --until-stable 5 --limit 300 "
    "--idle poll --transport rpyc,rpyc-tuned,grpc,grpc-tuned,rest,zmq,tcp,unix,shm",
    "batch": "run --mode submodel --engine frozen --threads 2 --batch 8 --runs 800 --until-stable 5 --limit 300 "
    f"--idle poll --insecure on --transport none,tcp,unix,shm,rpyc-tuned,grpc-tuned,sockets,tf-runtime --cut {CHEAP}",
    "sizes": "sizes --max 32 --longest 30 --repeats 3",
    "sizes-bare": "sizes --bare --idle poll --sizes 0.0001,0.01,0.2,1,8 --repeats 32",
    "sizes-large": "sizes --transport grpc,rpyc-tuned --sizes 64,256,600 --repeats 3 --longest 60",
    "threads": "threads",
}
"""Folder in `REFERENCE` -> the words of `splitbench` that measure it."""
STUDIES: Mapping[str, str] = {"simulation": "experiments.simulate.check", "advice": "tools.advice_study"}
"""Folder in `REFERENCE` -> the module that measures it, in several runs."""
ALL = (*COMMANDS, *STUDIES)


def measure(name: str) -> bool:
    """Measure one folder below `NEW`; whether the run is complete."""
    shutil.rmtree(NEW / name, ignore_errors=True)
    if name == "hop":
        make_hop()
    words = [STUDIES[name]] if name in STUDIES else ["experiments", *COMMANDS[name].split()]
    return subprocess.run([sys.executable, "-m", *words, "--out", str(NEW / name)], check=False).returncode == 0


def make_hop() -> None:
    """Write the model `HOP`."""
    import keras

    keras.utils.set_random_seed(0)
    NEW.mkdir(parents=True, exist_ok=True)
    keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(5))]).save(HOP)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 a measurement failed, and the others were made; 2 the checkout has changes."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.references", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; none: all")
    names = parser.parse_args(argv).names or list(ALL)
    if unknown := set(names) - set(ALL):
        parser.error(f"no reference {min(unknown)!r}; valid: {', '.join(ALL)}")
    if subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True).stdout:
        parser.error("the checkout has changes that its commit does not show; commit them")
    failed = []
    for name in names:
        print(f"\n{name}: {COMMANDS.get(name, STUDIES.get(name))}", flush=True)
        if not measure(name):
            failed.append(name)
    for name in names:
        if name not in failed:
            shutil.rmtree(REFERENCE / name, ignore_errors=True)
            (NEW / name).rename(REFERENCE / name)
    print(f"failed: {', '.join(failed)}" if failed else "all measured")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
