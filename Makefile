# The two commands: `make run` (the main job) and `make test`. Both set up all that they need, as `make setup` does alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup run test lint notebook lock clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv with all that is needed, and run nothing

run: .venv/.ready  ## the main job: both tables and the places of their reports; make run ARGS="--transport grpc --mode submodel" runs another
ifdef ARGS
	$(BIN)/python -m experiments.run $(ARGS)
else
	$(BIN)/python -m experiments.run --spec experiments/specs/seed-layer.toml,experiments/specs/seed-submodel.toml
endif

# A variable given to make is one of the tests' environment: TFS_BINARY=/path/to/tensorflow_model_server is the real server.
test: .venv/.ready  ## the whole test suite in three processes; make test ARGS="-k codec" runs a part of it
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.ready  ## ruff, strict mypy, and the check that the protobuf stubs are what the compiler emits
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.stubs --check

notebook: .venv/.ready  ## run the notebooks on results/reference and keep what they show
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

lock:  ## write constraints.txt anew, from a fresh environment with the newest versions that setup.cfg allows
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(BIN)/pip freeze --exclude-editable --exclude splitbench > constraints.txt
	touch .venv/.ready

clean:  ## remove the environment and what tools left behind
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A failed set-up leaves no .ready behind, so that the next call begins it again.
.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) tools/python_version.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
