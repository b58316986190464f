# make demo: watch a video made by Diagonal Decoding.  make test: lint and tests.  make build: a wheel.
PYTHON ?= python3
BIN := .venv/bin
OUT := out

.PHONY: install demo test lint format build clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/diagd compare presets/freedoom/clips/rooms.mp4 --decodings diagd --seed 0 --force -o $(OUT)/demo.mp4
	@echo "Watch $(OUT)/demo.mp4: left the true continuation, right the one that DiagD made."

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: install
	$(BIN)/python -m build --wheel --outdir dist

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis
