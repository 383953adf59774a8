# The front door. `make demo` and `make test` work on a fresh machine with Python 3.11 or later, and need nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test lint types unit models bench bench-quick docs clean

demo: $(VENV)/installed ## fine-tunes a small real model with rank-1 LoRA and audits what that did to its weights
	$(BIN)/python examples/demo.py $(DEMO)

test: lint types unit models ## lint, types, the test suite, and the checks on real models

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not models and not slow"

models: $(VENV)/installed
	$(BIN)/pytest -m "models or slow"

bench: $(VENV)/installed ## the engine against the reference algorithm and PEFT, side by side in one process
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/installed
	$(BIN)/python -m benchmarks --quick

docs: $(VENV)/installed ## the documentation as a website in ./site
	$(BIN)/pip install --quiet -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[gguf,train,report,demo,test]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
