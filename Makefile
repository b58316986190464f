# make demo: watch a video made by Diagonal Decoding.  make test: lint, types and tests.  make build: a wheel.
# make docs: the documentation as a site, in build/site.
# make bench: the ratios in benchmarks/results, some 30 minutes on two quiet cores.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
DEMO := out/demo.mp4
# What is imported is compiled when it is first used, not all that is installed: so it must be kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test suite types bench docs lint format build clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	touch .venv/installed $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	touch $@

demo: install
	$(BIN)/diagd compare presets/freedoom/clips/rooms.mp4 --decodings diagd --seed 0 --force -o $(DEMO)
	@echo "Watch $(DEMO). Left: how the clip really goes on. Right: what Diagonal Decoding made of its first 4 frames."

# The types are checked while the tests run, whose processes wait now and then.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types suite

suite: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

types: .venv/installed-dev
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.transformers_generate
	$(BIN)/python -m benchmarks.plain_loop
	$(BIN)/python -m benchmarks.decodings
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.busy --frames 8
	$(BIN)/python -m benchmarks.play

docs: .venv/installed-docs
	$(BIN)/python -m diagd_cli.cli.reference > docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open build/site/index.html"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: .venv/installed-dev
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
