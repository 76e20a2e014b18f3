# `make book` and `make test` work from a fresh clone: each makes the environment .venv first if it has to.
# Another interpreter: make PYTHON=python3.12 book

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BOOK_FLAGS ?=
GPU_FLAGS ?=

.PHONY: book test notebooks gpu lint format clean

book: $(STAMP)  ## the site, in book/_build/html
	$(BIN)/jupyter-book build book $(BOOK_FLAGS)
	@echo "Open book/_build/html/index.html"

# One thread a worker: most tests are many small steps, which more threads only slow down. A chapter's cells
# stay with one worker.
test: $(STAMP)  ## the unit tests, then every cell of every chapter against its stored output
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval book --numprocesses auto --dist loadfile

notebooks: $(STAMP)  ## run the chapters and store their outputs, after a change to them or to the library
	cd book && PYTHONPATH=.. ../$(BIN)/jupyter execute --inplace --timeout=300 [0-9][0-9]_*.ipynb

# A machine that is lent has a PyTorch of its own, and perhaps no network: only where there is none is one installed.
gpu:  ## all that waits for a GPU, in ten minutes; in miniature: make gpu GPU_FLAGS="--device cpu --minutes 2"
	@test -e $(STAMP) || $(PYTHON) -c 'import torch' 2> /dev/null || $(MAKE) $(STAMP)
	$$(test -e $(STAMP) && echo $(BIN)/python || echo $(PYTHON)) tools/gpu.py $(GPU_FLAGS)

lint: $(STAMP)  ## style of code and notebooks, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the book build made; the environment stays
	rm -rf book/_build .pytest_cache .mypy_cache .ruff_cache

$(STAMP): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --requirement requirements.txt --editable '.[book,train,vocoder,fast,data,dev]'
	touch $@
