# Two commands matter: `make reproduce` and `make test`. Both set everything up first.
# Both may be run again at any time: what is in place is not done twice, and needs no network.

PYTHON ?= python3
VENV ?= .venv
IN_VENV = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup reproduce test book lock clean

help:
	@echo "Steering Away from Bias"
	@echo
	@echo "  make reproduce   run every chapter, compare each number with the ledger, build the book"
	@echo "  make test        check the code: style, types and tests"
	@echo
	@echo "  make book        build the book again from the last run of the chapters"
	@echo "  make setup       only prepare: virtual environment in $(VENV), all packages, the weights"
	@echo "  make lock        write requirements.lock and environment.yml from what is installed"
	@echo "  make clean       remove all that was made here (do this after moving the folder, too)"
	@echo
	@echo "Every command prepares what it needs; the first one downloads, later ones work offline."
	@echo "Another Python:             make test PYTHON=python3.12"
	@echo "An active conda environment: make test VENV=\$$CONDA_PREFIX"

# The stamp is written last: a set-up that was interrupted, or that failed, is taken up again.
$(INSTALLED): requirements.lock pyproject.toml
	@$(IN_VENV) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "steerlib needs Python 3.11 or newer, and '$(PYTHON)' is not: install one and name it, for example: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }; \
	  echo "Setting up $(VENV). This happens once and is mostly downloads."; \
	  $(PYTHON) -m venv "$(VENV)"; }
	$(IN_VENV) -m pip install -r requirements.lock
	$(IN_VENV) -m pip install --no-deps --no-build-isolation -e .
	@touch "$@"

setup: $(INSTALLED)
	$(IN_VENV) -m steerlib assets

reproduce: setup
	$(IN_VENV) -m steerlib reproduce

test: setup
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m mypy --strict steerlib tools
	$(IN_VENV) -m pytest -n auto --maxprocesses=4

book: $(INSTALLED)
	$(IN_VENV) -m steerlib book

lock: $(INSTALLED)
	$(IN_VENV) tools/lock.py

# Only a folder that venv made is removed, never a conda environment; fetched weights stay in their cache.
clean:
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find steerlib tests tools -type d -name __pycache__ -prune -exec rm -rf {} +
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; else rm -f "$(INSTALLED)"; fi
