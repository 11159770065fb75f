# Everything a newcomer or CI needs; each target makes the environment it runs in.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: install quickstart test slow check clean

install: .venv/installed

# torch first: constraints.txt pins it, and a build that is at hand is then not replaced by a larger one.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/dlref train model=seq2seq run_dir=runs/quickstart_dates resume=auto
	$(BIN)/dlref evaluate runs/quickstart_dates
	@echo
	@echo "Look at it:   $(BIN)/tensorboard --logdir runs"
	@echo "Go on:        $(BIN)/dlref list"

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
