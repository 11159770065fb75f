# Everything a newcomer or CI needs; each target makes the environment it runs in.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: install quickstart test slow crosschecks half check coverage audit clean

install: .venv/installed

# torch first: constraints.txt pins it, and a build that is at hand is then not replaced by a larger one.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv/crosschecks: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,crosschecks]"
	touch $@

quickstart: install
	$(BIN)/dlref train model=seq2seq run_dir=runs/quickstart_dates resume=auto
	$(BIN)/dlref evaluate runs/quickstart_dates
	@echo
	@echo "Look at it:   $(BIN)/tensorboard --logdir runs"
	@echo "Next:         $(BIN)/dlref list"

# In random order, whose seed is printed first. Each worker takes a contiguous part of the list, so that what the tests of a
# file share is mostly made once.
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Those that are alone use both cores or measure the time of a command.
slow: install .venv/crosschecks
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not alone"
	$(BIN)/python -m pytest -m alone

# Compares with independent libraries, and writes the table of docs/crosschecks.md.
crosschecks: .venv/crosschecks
	$(BIN)/python -m pytest -n 2 -m slow --write-page tests/crosschecks

# What depends on the instruction set, as on a CPU without AVX-512.
half: install
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -n 2 -m half

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Which branches of the readers of files, configs and command lines the fast tests reach.
READERS := data/safe_io data/supervised/images data/supervised/table_columns data/supervised/table_files data/supervised/tables data/text/parallel_corpora data/text/text_files data/text/tokenizer data/text/word2vec_format training/checkpoint build cli/compose cli/commands/predict
coverage: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov=dlref --cov-branch --cov-report= tests/data tests/faults tests/cli tests/test_build.py
	$(BIN)/python -m coverage report --show-missing --include=$$(echo $(READERS:%=dlref/%.py) | tr " " ,)

# Known vulnerabilities of the pinned versions, as PyPI tells them; a version that it cannot tell about is not clean.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
