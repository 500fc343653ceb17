# Every command works from a fresh clone: it installs what it needs first. Contract: docs/development.md.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := dags plugins sandbox tests bench
# First imports of uncompiled modules are two to five times slower; containers often switch compiling off.
unexport PYTHONDONTWRITEBYTECODE
# The locks name versions and hashes; where packages come from is this machine's business, one index at a time.
unexport PIP_FIND_LINKS
export UV_COMPILE_BYTECODE := 1

.PHONY: setup demo test soak lint bench lock clean down

setup: $(VENV)/.installed

$(VENV)/.installed: requirements-dev.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Upkeep needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@echo "setup: environment in $(VENV) (about a minute)"
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q uv==0.13.9; }
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@echo "$(CURDIR)/plugins" > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/upkeep.pth
	@touch $@

demo: setup
	@$(BIN)/python -m sandbox.demo $(if $(ONCE),--once)

# First what runs side by side; then the whole Airflow, which wants the machine for itself. On a machine that others
# use as well a test may fail for want of time: here it is tried once more, and its failure is shown. `soak` forgives none
# but clocks (pyproject.toml).
AGAIN := --reruns 1 --only-rerun . --rerun-show-tracebacks

test: setup
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not soak and not live" $(AGAIN)
	@$(BIN)/python -m pytest -q -m "live and not soak" $(AGAIN)

soak: setup
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not live"
	@$(BIN)/python -m pytest -q -m live

lint: setup
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint --processes 2 include/sql

bench: setup
	@$(BIN)/python -m bench $(if $(CONTEST),--contest $(CONTEST)) $(if $(DSN),--dsn $(DSN))

down:
	@$(BIN)/python -m sandbox down

lock:
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.txt -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.txt --group dev -o requirements-dev.lock

clean: down
	rm -rf $(VENV) .tools .sandbox .airflow artifacts
