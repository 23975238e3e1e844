# The two commands: `make demo` and `make test`. Each sets up all that it needs by itself, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := $(VENV)/.bench
ARGS ?=

.PHONY: demo test check bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "capbg needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	touch $@

$(BENCH): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

# The kiosk is rehearsed: told to stop with photos left to upload, and what came of it is looked at. ARGS=--printer-hangs...
demo: $(STAMP)
	$(BIN)/python examples/demo.py $(ARGS)

# The whole suite, by two processes. One file or one test: make test ARGS="tests/e2e/test_phases.py -k suspend"
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(ARGS)

# Against the floor and every peer: 15 minutes on an idle machine. A look at it: make bench ARGS=--quick
bench: $(BENCH)
	$(BIN)/python -m benchmarks $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:randomly tests/test_architecture.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
