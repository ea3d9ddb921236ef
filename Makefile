# The verbs of this house. Each makes its own .venv when there is none; all it needs is Python 3.11 or
# newer, a C compiler and make.
#
#   make demo PYTHON=python3.12      another interpreter
#   make test ARGS="-k queue -x"     arguments for the command behind the verb
#   make test WORKERS=0              in one process, as --pdb wants it

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# One more than there are cores: a third of the tests' time is waiting for processes.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

BIN := $(VENV)/bin
# Touched after every install; what it depends on is what makes an install out of date.
STAMP := $(VENV)/.installed
COMPILED := $(wildcard horizon/_*.pyx horizon/_*.pxd)

.DEFAULT_GOAL := help
.PHONY: help demo up test nightly faults mutants bench lint wheel clean

help: ## show the verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP) ## real jobs of three users through to the end, then the log verified (under a minute)
	$(BIN)/horizon demo $(ARGS)

up: $(STAMP) ## Postgres, scheduler and node on this machine, until ctrl-C
	$(BIN)/horizon up $(ARGS)

test: $(STAMP) ## the whole test suite, on a real Postgres
	$(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

nightly: $(STAMP) ## ten thousand random lives of a cluster, a million bad days of its schedulers, every rule checked
	$(BIN)/python -m tests.core.worlds --seeds 10000 $(ARGS)
	$(BIN)/python -m tests.faults.simulation --seeds 1000000 $(ARGS)

faults: $(STAMP) ## real schedulers and a real Postgres, cut, killed, stopped and filled up at random (ten minutes)
	$(BIN)/python -m tests.faults $(ARGS)

mutants: $(STAMP) ## Horizon with one thing wrong at a time: each must turn a test red (a few minutes)
	$(BIN)/python -m tests.faults.mutants $(ARGS)

bench: $(STAMP) ## the benchmarks, as a table
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP) ## the sdist, and the wheel built from it, in dist/
	$(BIN)/python -m build $(ARGS)

clean: ## remove .venv and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f horizon/_*.c horizon/_*.so
	find horizon tests migrations benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Horizon needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml setup.py $(COMPILED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@
