# make demo: watch a video made by Diagonal Decoding.  make test: lint and tests.  make build: a wheel.
# make docs: the documentation as a site, in build/site.
# make bench: the ratios in benchmarks/results, some 30 minutes on two quiet cores.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# By all cores at once, where pip takes one; some packages hold files of other Pythons, which do not compile.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib > /dev/null || true
DEMO := out/demo.mp4

.PHONY: install demo test bench docs lint format build clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	$(COMPILE)
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	$(COMPILE)
	touch .venv/installed $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	touch $@

demo: install
	$(BIN)/diagd compare presets/freedoom/clips/rooms.mp4 --decodings diagd --seed 0 --force -o $(DEMO)
	@echo "Watch $(DEMO). Left: how the clip really goes on. Right: what Diagonal Decoding made of its first 4 frames."

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.transformers_generate
	$(BIN)/python -m benchmarks.plain_loop
	$(BIN)/python -m benchmarks.decodings
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.busy --frames 8

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
	rm -rf .venv build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis
