# trainwright: make demo trains on real images; make test runs lint and the tests.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint install tools chart-test chart-full checkov test-full parity reshard chaos bench docs clean

demo: install  ## train examples/digits-cnn.yaml on two workers of this machine
	$(BIN)/trainwright run examples/digits-cnn.yaml

test: lint  ## lint and the tests (about a quarter of an hour on two cores)
	$(BIN)/python -m pytest -m "not slow"

lint: install  ## ruff, mypy and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

# torch first and alone: pip then keeps the build that is there or that an index chosen by you serves (CPU or CUDA)
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q $(VENV)/lib || true
	touch $@

test-full: install  ## every test, the long suites too
	$(BIN)/python -m pytest

clean:  ## what building and testing left
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
