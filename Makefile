# Each target sets up what it needs in .venv by itself, on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: run test lint bench asv gpu-check clean
.DELETE_ON_ERROR:

run: $(VENV)/run.stamp
	$(BIN)/initbench run --profile quick --jobs auto

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp
	$(BIN)/python -m pytest --benchmark-only

# The current commit, saved in results/asv; what is not committed is not measured.
asv: $(VENV)/test.stamp
	$(BIN)/asv run

gpu-check: $(VENV)/test.stamp
	$(BIN)/python -m initbench_core.checks.gpu

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "initbench needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch comes as the index's default build with its CUDA libraries: torchvision does not import beside a CPU-only one.
$(VENV)/run.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing initbench with torch, torchvision and triton (about 6 GB, some minutes) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) --editable ".[test,dev]"
	@touch $@
