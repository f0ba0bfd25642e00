# `make` without a target lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
# The run that `make resume` continues; your latest by default. FORCE=1 ends what still works on it.
RUN ?=
FORCE ?=
# For `make infra`: the stack's name, the folder to upload, KEY=VALUE parameters of the template. YES=1 skips the question.
STACK ?= skin-lesion
DATA ?= sample
PARAMETERS ?=
# For `make image`: the tag. PUSH=1 pushes the image to that registry.
IMAGE ?= skin-lesion
PUSH ?=
# For `make serve` and `make serving-image`: the registered model; the port; the image's tag.
MODEL ?= models:/skin-lesion@champion
PORT ?= 8080
SERVING_IMAGE ?= skin-lesion-serving
# For `make lock`: UPGRADE=1 also takes the newest versions of indirect dependencies.
UPGRADE ?=
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --annotation-style line

.DEFAULT_GOAL := help
.PHONY: help setup lock train resume cards infra infra-down platform platform-stop platform-status
.PHONY: serve serving-image test torture lint lint-fast audit sbom format image clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## Install the locked packages and this project into .venv

$(READY): $(UV) requirements-dev.txt requirements.in pyproject.toml
	$(UV) pip sync --quiet --python $(PY) --require-hashes requirements-dev.txt
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

# A new environment gets uv first, by pip, in the version and with the hashes of the lock.
$(UV):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "This needs Python 3.11 or newer; install it or name it: make PYTHON=python3.12"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\]$$/p' requirements-dev.txt | $(PY) -m pip install --quiet --disable-pip-version-check --requirement /dev/stdin

lock: $(UV)  ## Write requirements*.txt from requirements*.in (UPGRADE=1 also upgrades indirect dependencies)
	$(LOCK) $(if $(UPGRADE),--upgrade) --output-file requirements-dev.txt requirements.in requirements-dev.in
	$(LOCK) --constraint requirements-dev.txt --output-file requirements.txt requirements.in

train: $(READY)  ## Run the whole pipeline on the synthetic sample
	$(PY) flows/train.py run

resume: $(READY)  ## Resume your latest run if it failed (RUN=ID for another, FORCE=1 to end it if it still runs)
	$(PY) flows/resume.py $(RUN) $(if $(FORCE),--force)

cards: $(READY)  ## Show the runs' cards in the browser
	@echo "Open http://127.0.0.1:8324 (Ctrl-C stops the server)"
	$(PY) flows/train.py card server --port 8324

# mlflow looks for uv on the path, and installs the model's requirements with it.
serve: $(READY)  ## Serve the registered champion on 127.0.0.1 (MODEL=models:/NAME/VERSION PORT=8080)
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/mlflow models serve --env-manager uv --model-uri $(MODEL) --port $(PORT)

serving-image: $(READY)  ## Build an image with the champion and its server (MODEL= SERVING_IMAGE= PUSH=1)
	rm -rf build/serving
	$(VENV)/bin/mlflow artifacts download --artifact-uri $(MODEL) --dst-path build/serving
	cp skinlib/serving/server.py build/serving
	rm build/serving/weights.npz
	DOCKER_BUILDKIT=1 docker build --platform linux/amd64 --file .devcontainer/Dockerfile --target serving \
		--tag $(SERVING_IMAGE) build/serving
	$(if $(PUSH),docker push $(SERVING_IMAGE))

infra: $(READY)  ## Deploy to AWS, upload the data, write a Metaflow profile (DATA=FOLDER STACK=NAME)
	@$(PY) -m infra.deploy up --stack $(STACK) --data "$(DATA)" $(PARAMETERS:%=--parameter %) $(if $(YES),--yes)

infra-down: $(READY)  ## Delete the AWS stack; DELETE_DATA=1 deletes the data too
	@$(PY) -m infra.deploy down --stack $(STACK) $(if $(DELETE_DATA),--delete-data) $(if $(YES),--yes)

platform: $(READY)  ## Start S3, MLflow, metadata, Batch and Kubernetes on this machine
	@$(PY) -m infra.local.services start

platform-stop: $(READY)  ## Stop these services; their data stays
	@$(PY) -m infra.local.services stop

platform-status: $(READY)  ## Show the health and address of each service
	@$(PY) -m infra.local.services status

test: $(READY)  ## Run all tests
	$(PY) -m pytest

torture: $(READY)  ## Run the tests of faults that take long (up to 40 minutes)
	$(PY) -m pytest -v -rP tests/torture

lint: lint-fast  ## Check style, imports, types, and every other file that a linter knows
	$(PY) -m mypy
	$(VENV)/bin/cfn-lint infra/stack.yaml
	$(VENV)/bin/hadolint .devcontainer/Dockerfile
	$(VENV)/bin/kubernetes-validate --quiet --strict configs/serving/kubernetes.yaml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/zizmor --offline --quiet .github/workflows

lint-fast: $(READY)  ## Check style and imports only, as the pre-commit hook does
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache --no-logo

audit: $(UV)  ## Look up the locked packages in the database of known vulnerabilities (needs the internet)
	$(UV) tool run --quiet --from pip-audit==2.9.0 pip-audit --requirement requirements.txt --require-hashes --disable-pip

sbom: $(UV)  ## Write build/sbom.json, the packages of the image as CycloneDX
	mkdir -p build
	$(UV) tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --output-file build/sbom.json requirements.txt

format: $(READY)  ## Format the code and apply automatic fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

image:  ## Build the image for remote tasks (IMAGE=registry/name:tag PUSH=1 pushes it)
	DOCKER_BUILDKIT=1 docker build --platform linux/amd64 --file .devcontainer/Dockerfile --target remote --tag $(IMAGE) .
	$(if $(PUSH),docker push $(IMAGE))

clean:  ## Delete the environment and caches, but not .metaflow, mlflow.db, mlruns or .platform
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
