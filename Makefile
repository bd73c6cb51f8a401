# Two commands for a newcomer: make demo, make test. Each sets up what it needs itself.
# ASDIC_PIP_ARGS is passed to pip: where torch's CPU wheel comes from another index, say so there.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/dev.txt

.PHONY: demo test setup lint types contracts unit clean docs

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "asdic needs Python 3.11 or newer; run make with PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python cannot make environments; install the package python3-venv"; exit 1; }
	@echo "asdic: installing into $(VENV); about 1 GB to download, 3 GB on disk"
	@echo "asdic: (torch without a CPU wheel index brings CUDA, several GB more; see README, ASDIC_PIP_ARGS)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --progress-bar off $(ASDIC_PIP_ARGS) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/asdic demo --out demo

test: lint types contracts unit

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	@rm -rf .typecheck && mkdir -p .typecheck/asdic
	@for part in cli contract device firmware_bridge fleet quantization training; do \
	  ln -s ../../$$part .typecheck/asdic/$$part; done
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

docs: setup
	@$(BIN)/python -m tests.support.cli_reference docs/cli.md

clean:
	rm -rf $(VENV) build .typecheck demo
