# `make demo` and `make test` are all that a fresh machine with Python 3.11+ needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CODE := sbt experiments tests docs
READY := $(VENV)/.ready

.PHONY: help demo gallery docs test test-all torture lint format lock clean

help:
	@echo "make demo      environment, install, the digits grid (216 runs), figures"
	@echo "make gallery   one page of all evidence: what papers claim, what was found"
	@echo "make docs      the documentation as a site: build/docs/index.html"
	@echo "make test      the test suite            make test-all  with the slow groups"
	@echo "make torture   100 random kills of sweeps that must not change a bit"
	@echo "make lint      ruff, mypy, layers        make format    ruff format"
	@echo "make lock      refresh requirements.lock make clean     remove the environment"

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

demo: $(READY)
	$(BIN)/sbt run experiments/quickstart.py --workdir runs/quickstart
	$(BIN)/sbt report runs/quickstart

gallery: $(READY)
	$(BIN)/sbt gallery

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow or not slow"

torture: $(READY)
	$(BIN)/python tests/torture.py --kills=100

lint: $(READY)
	$(BIN)/ruff check $(CODE) notebooks
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# Universal: one lock for all supported Python versions and platforms.
lock: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header \
	  --no-annotate --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
