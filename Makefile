# Everything happens in .venv; `make` alone lists the targets.  Stamps in .venv make repeated runs quick.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PYTEST_ARGS ?=
# the number of parallel test processes, each with its own servers; 0 runs the tests in pytest's own process. One more than there are
# cores, up to 4: a test waits for its servers and workers much of the time.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)))
# the sessions of noxfile.py for make test-matrix; empty for all
SESSIONS ?=

# The first Python that is 3.10 or newer and runs: a pyenv shim may exist for a version that is not installed.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-matrix lint bench docs troubleshooting systems venv servers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo ## install rootcellar into .venv and show what it does
	@$(BIN)/rootcellar demo

test: $(STAMPS)/dev servers ## run the tests, against real servers that they start themselves (PYTEST_ARGS="-k name" JOBS=0)
ifeq ($(strip $(PYTEST_ARGS)),)
	@echo "The lowest versions of Celery and the drivers first, in short (nox -s short) ..."
	@$(BIN)/python -m nox --noxfile noxfile.py -s short
endif
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

test-long: $(STAMPS)/dev servers ## run the tests that have a long form in it: many more rounds, chords and tasks
	@ROOTCELLAR_TEST_HEAVY=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist worksteal $(or $(PYTEST_ARGS),$(shell grep -lw HEAVY -r tests --include='test_*.py'))

test-matrix: $(STAMPS)/dev servers ## test every supported version of Python, Celery, the drivers and the servers (about an hour; SESSIONS="lowest")
	@$(BIN)/python -m nox --noxfile noxfile.py $(if $(SESSIONS),-s $(SESSIONS))

lint: $(STAMPS)/dev ## check style, types, the layers of packages, and docs/troubleshooting.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src tests/servers.py benchmarks tools
	if [ -x $(BIN)/lint-imports ]; then $(BIN)/lint-imports --no-cache --no-logo; else echo "The layers are checked with Python 3.11 and later."; fi
	$(BIN)/python -m tools.troubleshooting --check docs/troubleshooting.md

bench: $(STAMPS)/dev servers ## run the benchmarks
	@$(BIN)/python -m benchmarks

docs: $(STAMPS)/dev servers ## run the examples in the documentation
	@$(BIN)/python -m pytest tests/test_docs.py $(PYTEST_ARGS)

troubleshooting: $(STAMPS)/dev ## write docs/troubleshooting.md from the code
	@$(BIN)/python -m tools.troubleshooting docs/troubleshooting.md

systems: $(STAMPS)/dev servers ## run the conformance suites and write docs/systems.md
	@$(BIN)/python -m pytest tests/test_store_conformance.py tests/test_backend_conformance.py --write-systems

venv: $(STAMPS)/dev ## create .venv with all development tools

servers: # install missing servers
	@scripts/install-servers

clean: ## remove .venv and the files of the tools
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@scripts/make-venv "$(PYTHON)" $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# An editable install: only a change of pyproject.toml needs a new one.
$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml
	@echo "Installing rootcellar with its PostgreSQL and Redis parts into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[postgres,redis]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml
	@echo "Installing rootcellar with the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(STAMPS)/demo
