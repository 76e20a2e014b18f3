# `make book` and `make test` work from a fresh clone: each makes the environment .venv first if it has to.
# Another interpreter: make PYTHON=python3.12 book

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.book
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
BOOK_FLAGS ?=
NOTEBOOK_FLAGS ?=
TEST_FLAGS ?=
GPU_FLAGS ?=
# One thread a worker: most tests are many small steps, which more threads only slow down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

.PHONY: book test quick notebooks gpu lint format clean

book: $(READY)  ## the site, in book/_build/html, from the outputs that are stored in the notebooks
	$(BIN)/jupyter-book build book $(BOOK_FLAGS)
	@echo "Open book/_build/html/index.html"

# A chapter's cells stay with one worker.
test: $(STAMP)  ## the unit tests, then every cell of every chapter against its stored output
	$(PYTEST) --dist loadgroup $(TEST_FLAGS)
	$(PYTEST) --dist loadfile --nbval book

quick: $(STAMP)  ## the unit tests that are not marked slow, after a small change; then the slowest of them
	$(PYTEST) --dist loadgroup -m "not slow" --durations 10 --durations-min 2 $(TEST_FLAGS)

notebooks: $(STAMP)  ## run the chapters that are older than their cells, the library or their results: tools.notebooks
	$(BIN)/python -m tools.notebooks $(NOTEBOOK_FLAGS)

# A machine that is lent has a PyTorch of its own, and perhaps no network: only where there is none is one installed.
gpu:  ## everything that needs a GPU, in ten minutes; a small version: make gpu GPU_FLAGS="--device cpu --minutes 2"
	@test -e $(STAMP) || $(PYTHON) -c 'import torch' 2> /dev/null || $(MAKE) $(STAMP)
	$$(test -e $(STAMP) && echo $(BIN)/python || echo $(PYTHON)) -m tools.gpu $(GPU_FLAGS)

lint: $(STAMP)  ## style of code and notebooks, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the book build made; the environment stays
	rm -rf book/_build .pytest_cache .mypy_cache .ruff_cache

# What the site needs: numba too, since the API pages import the compiled loop. Compiling all of it to bytecode
# would take longer than one build does without.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[book,fast]'
	touch $@

# Tests start Python hundreds of times: for them bytecode pays. Some packages hold templates that are no Python.
$(STAMP): $(READY) requirements.txt
	$(PIP) --requirement requirements.txt --editable '.[book,train,vocoder,evaluation,fast,data,dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@
