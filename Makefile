# Every target sets up what it needs. `make demo` and `make test` work on a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format clean

# The first of these that is Python 3.11 or newer and can make virtual environments; override with `make PYTHON=/path/to/python`.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for candidate in $(CANDIDATES); do \
	$$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
BIN := .venv/bin
STAMP := .venv/installed

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make .venv with everything in it

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with the venv module was found: install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable ".[dev]"
	@$(BIN)/python -m pip freeze | grep '^torch==' > .venv/torch.txt
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --constraint .venv/torch.txt --editable ".[deepspeed]" || \
		echo "DeepSpeed could not be installed: zero1, zero2 and zero3 can't be used, and their tests are skipped" >&2
	$(BIN)/python -m pip install --constraint .venv/torch.txt --editable ".[export]" || \
		echo "ONNX and its runtime could not be installed: cgt export --format onnx can't be used, and its tests are skipped" >&2
	@touch $@

demo: install  ## Pretrain, transfer, eval and sample on built-in pictures (about 5 minutes on 2 cores); results in demo/
	$(BIN)/cgt demo --out demo --overwrite

test: install  ## The quick tests
	$(BIN)/python -m pytest

test-all: install  ## All tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

check: install  ## What CI runs: lint, format, types, quick tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: install  ## Sort imports, format, fix what can be fixed by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove .venv and caches; results stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
