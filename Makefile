# Two commands do everything: `make repro` (the pipeline on the embedded data set) and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := TMPDIR=$(CURDIR)/.venv/tmp $(BIN)/python -m pip install --quiet --disable-pip-version-check
GIGABYTES := 11
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install repro test check format ui bench lock retry clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv and install the pinned packages, if missing or stale

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@[ -e .venv ] || $(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(free < $(GIGABYTES) and \
	  f"Installing needs $(GIGABYTES) GB on the disk of this checkout (7 of them stay in use), and {free:.1f} GB are free: make room there.")'
	@echo "Installing the pinned packages into .venv (about 7 GB on disk; some minutes, once)"
	@$(PYTHON) -m venv .venv
	@rm -rf .venv/tmp && mkdir .venv/tmp
	@$(PIP) --no-cache-dir --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@rm -rf .venv/tmp
	@touch $@

repro: install  ## run what is missing of the pipeline, then print the tables
	@dvc repro
	@python -m pipeline publish
	@python -m pipeline show

test: install  ## run the tests, the whole pipeline on a tiny data set among them
	@pytest --numprocesses 3 --dist loadgroup

check: install  ## formatting, lint, types; nothing is changed
	@ruff format --check .
	@ruff check .
	@mypy

format: install  ## format the code and mend what lint can mend
	@ruff format .
	@ruff check --fix .

ui: install  ## MLflow on 127.0.0.1:5000, over the runs of this checkout
	@python -m pipeline ui

bench: install  ## the benchmarks: ratios within one run
	@for file in $(filter-out benchmarks/naive.py benchmarks/common.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; python $$file || exit 1; done

retry: install  ## forget failures and run those trials again; some: make retry TRIALS="KEY ..."
	@python -m pipeline retry $(TRIALS)
	@dvc repro --force --no-run-cache --single-item sweep
	@dvc repro
	@python -m pipeline show

lock: install  ## resolve requirements.lock anew from pyproject.toml
	@uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group dev --upgrade \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean:  ## remove the environment; data, results and reports stay
	@rm -rf .venv build *.egg-info
