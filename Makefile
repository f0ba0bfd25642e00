# `make` alone lists what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
READY := .venv/.ready
# The run that `make resume` continues; empty is the latest.
RUN ?=

.DEFAULT_GOAL := help
.PHONY: help setup train resume cards test lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## Install everything into .venv

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "This needs Python 3.11 or newer; install it or name it: make PYTHON=python3.12"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

train: $(READY)  ## Run the whole pipeline on the synthetic sample
	$(PY) flows/train.py run

resume: $(READY)  ## Continue the latest run if it failed (RUN=ID for another)
	$(PY) flows/resume.py $(RUN)

cards: $(READY)  ## Look at the runs' cards in the browser
	@echo "Open http://127.0.0.1:8324 (Ctrl-C ends it)"
	$(PY) flows/train.py card server --port 8324

test: $(READY)  ## Run all tests
	$(PY) -m pytest

lint: $(READY)  ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)  ## Let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## Remove the environment and caches; runs (.metaflow) and models (mlflow.db, mlruns) stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
