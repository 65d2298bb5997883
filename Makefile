# `make run` and `make test` need Python 3.11 or newer with its venv module, and nothing else; they
# set up .venv from the lock files by themselves.
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules
# Tests start workers by the hundred: each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check
WORKER := .venv/bin/perago-worker --config config/local.toml
SERVERS := deploy/servers/servers.py
UV ?= uv

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 14

.PHONY: run
run: .venv/runtime.stamp ## Run the example on the embedded queue and store
	@$(WORKER) submit weather.daily --workspace weather@main --import config/examples/station_data
	@$(WORKER) submit weather.dew_point --params '{"temperature_c": 21.5, "humidity_percent": 60}'
	@$(WORKER) --until-idle
	@$(WORKER) tasks

# Four processes for two cores: many tests wait for the processes that they start. They fetch one
# test at a time, long ones first, so that all end together.
.PHONY: test
test: .venv/dev.stamp ## Run the everyday tests, without servers
	@.venv/bin/python -m pytest -q -n 4 --maxschedchunk 1 -m "not servers" tests/unit tests/contract tests/e2e

.PHONY: deploy-test
deploy-test: .venv/dev.stamp ## Test what is in deploy/, and the status page in browsers (needs promtool, chromium, w3m)
	@.venv/bin/python deploy/render.py tools >/dev/null
	@.venv/bin/hadolint Dockerfile deploy/examples/image/Dockerfile
	@.venv/bin/python -m pytest -q tests/deploy

.PHONY: image-test
image-test: .venv/dev.stamp ## Build the image from Debian packages and run it (as root; needs buildah, podman)
	@.venv/bin/python -m pytest -q tests/image

.PHONY: node-test
node-test: .venv/dev.stamp ## Run workers on a real one-node Kubernetes (as root; the first time takes ten minutes more)
	@.venv/bin/python deploy/node/enclosed.py .venv/bin/python -m pytest -q tests/node

.PHONY: servers
servers: .venv/dev.stamp ## Start a real Conductor and a real lakeFS, and print how to reach them
	@.venv/bin/python $(SERVERS) up

.PHONY: bench
bench: .venv/bench.stamp ## Measure speed beside other clients, on both real servers (three quarters of an hour)
	@.venv/bin/python -m benchmarks --out benchmarks/out $(BENCH)

.PHONY: lint
lint: .venv/dev.stamp ## Check format, style and the direction of imports
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports --no-logo

.PHONY: types
types: .venv/dev.stamp ## Check types
	@.venv/bin/mypy
	@.venv/bin/mypy $(SERVERS) deploy/render.py deploy/image.py deploy/node/enclosed.py deploy/node/node.py

# The build backend is in both locks, so that building needs no second download.
LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-annotate --upgrade \
  --python-version 3.11 --custom-compile-command 'make lock' pyproject.toml -
.PHONY: lock
lock: ## Renew the lock files (needs uv)
	@printf 'hatchling\neditables\n' | $(LOCK) --group dev --extra otel -o requirements-dev.lock
	@printf 'hatchling\neditables\n' | $(LOCK) -c requirements-dev.lock -o requirements.lock
	@printf 'hatchling\neditables\n' | $(LOCK) --group dev --extra otel --group bench -c requirements-dev.lock \
	  -o requirements-bench.lock

.PHONY: clean
clean: ## Remove what make made; the caches of what is built stay
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; this is $$(python3 -V 2>&1)." \
	  "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Setting up .venv (once) ..." >&2
	@"$(PYTHON)" -m venv --clear .venv || { rm -rf .venv; exit 1; }

.venv/runtime.stamp: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing what $< names ..." >&2
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Holds everything the runtime lock holds, at the same versions.
.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv/bin/python
	@echo "Installing what $< names ..." >&2
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The development environment and what draws pictures.
.venv/bench.stamp: requirements-bench.lock .venv/dev.stamp
	@echo "Installing what $< names ..." >&2
	@$(PIP) install --require-hashes --requirement requirements-bench.lock
	@touch $@
