# `make` alone lists what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# The run that `make resume` continues; empty is the latest.
RUN ?=
# What `make infra` deploys: the stack's name, a folder to upload, KEY=VALUE of the template; YES=1 does not ask.
STACK ?= skin-lesion
DATA ?= sample
PARAMETERS ?=
# What `make image` builds, and whether it is pushed there.
IMAGE ?= skin-lesion
PUSH ?=

.DEFAULT_GOAL := help
.PHONY: help setup train resume cards infra infra-down platform platform-stop platform-status image test lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## Install everything into .venv

$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "This needs Python 3.11 or newer; install it or name it: make PYTHON=python3.12"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

train: $(READY)  ## Run the whole pipeline on the synthetic sample
	$(PY) flows/train.py run

resume: $(READY)  ## Continue the latest run if it failed (RUN=ID for another)
	$(PY) flows/resume.py $(RUN)

cards: $(READY)  ## Look at the runs' cards in the browser
	@echo "Open http://127.0.0.1:8324 (Ctrl-C ends it)"
	$(PY) flows/train.py card server --port 8324

infra: $(READY)  ## Deploy to AWS with the data, write a Metaflow profile (DATA=FOLDER STACK=NAME)
	@$(PY) -m infra.deploy up --stack $(STACK) --data "$(DATA)" $(PARAMETERS:%=--parameter %) $(if $(YES),--yes)

infra-down: $(READY)  ## Delete all of that, data only when told (DELETE_DATA=1)
	@$(PY) -m infra.deploy down --stack $(STACK) $(if $(DELETE_DATA),--delete-data) $(if $(YES),--yes)

platform: $(READY)  ## Start S3, MLflow, metadata, Batch and Kubernetes on this machine
	@$(PY) -m infra.local.services start

platform-stop: $(READY)  ## End them; what they stored stays
	@$(PY) -m infra.local.services stop

platform-status: $(READY)  ## Show which of them are healthy, and where
	@$(PY) -m infra.local.services status

test: $(READY)  ## Run all tests
	$(PY) -m pytest

lint: $(READY)  ## Check style and types, the template, the Dockerfile and the workflows
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/cfn-lint infra/stack.yaml
	$(VENV)/bin/hadolint .devcontainer/Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --offline --quiet .github/workflows

format: $(READY)  ## Let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

image:  ## Build the image of remote tasks (IMAGE=registry/name:tag PUSH=1 pushes it)
	DOCKER_BUILDKIT=1 docker build --platform linux/amd64 --file .devcontainer/Dockerfile --target remote --tag $(IMAGE) .
	$(if $(PUSH),docker push $(IMAGE))

clean:  ## Remove the environment and caches; runs (.metaflow), models (mlflow.db, mlruns) and .platform stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
