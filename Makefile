# The front door. `make demo` and `make test` work on a fresh machine with Python 3.11 or later, and need nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test lint types unit models browser bench bench-quick docs clean

demo: $(VENV)/installed ## fine-tunes a small real model by LoRA and in full, and shows what each did to its weights
	$(BIN)/intruders study examples/quickstart.yaml --out $(DEMO)
	$(BIN)/intruders report $(DEMO) --out $(DEMO)/report.html
	@echo
	@echo "the report: $(CURDIR)/$(DEMO)/report.html"
	@echo "the tables: $(CURDIR)/$(DEMO)/*.parquet"
	@echo "the models: $(CURDIR)/$(DEMO)/runs"

test: lint types unit models browser ## lint, types, the test suite, and the checks on real models

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed ## the plain suite; one torch thread a process, since more than there are cores stall one another
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not models and not slow and not browser"

models: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "models or slow"

browser: $(VENV)/installed ## the reports in a real browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser

bench: $(VENV)/installed ## the engine against the reference algorithm and PEFT, side by side in one process
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/installed
	$(BIN)/python -m benchmarks --quick

docs: $(VENV)/installed ## the documentation as a website in ./site
	$(BIN)/pip install --quiet -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[gguf,train,report,ray,demo,test]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
