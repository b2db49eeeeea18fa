# Each target makes or updates .venv by itself, when pyproject.toml or the pins have changed.
# PYTHON=… names the Python to use, ARGS=… adds options to the command.

.PHONY: help run demo test check format written coverage bench chaos
.DELETE_ON_ERROR:

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c requirements/ci.txt
PINS := pyproject.toml requirements/ci.txt
WORKERS ?= 2

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: .venv/.run  ## start the sidecar
	$(BIN)/ollama-wrap serve $(ARGS)

demo: .venv/.run  ## three fake Ollamas and a sidecar; a node dies
	$(BIN)/ollama-wrap demo $(ARGS)

test: .venv/.dev  ## every test but the long ones
	@.ci/test-tools
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal -m "not chaos" $(ARGS)

check: .venv/.dev  ## format, lint, types, imports, the house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit -q -ll -c pyproject.toml -r ollama_wrap
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_house.py tests/test_promises.py

format: .venv/.dev  ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

written: .venv/.run  ## env.example and docs/settings.md, from the table of settings
	$(BIN)/ollama-wrap config env > env.example
	$(BIN)/ollama-wrap config docs > docs/settings.md

coverage: .venv/.dev  ## the tests, with the lines and branches they miss
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal -m "not chaos" --cov $(ARGS)

bench: .venv/.dev  ## figures beside other proxies, as ratios
	$(BIN)/python benchmarks/run.py $(ARGS)

chaos: .venv/.dev  ## processes killed, frozen, cut off; CHAOS="C1 C2" REPS=1 takes a part of it
	@.ci/chaos-tools
	$(BIN)/python -m tests.chaos $(if $(CHAOS),--only "$(CHAOS)") $(if $(REPS),--reps $(REPS)) $(ARGS)

.venv/.run: $(PINS)
	@PYTHON="$(PYTHON)" .ci/venv
	$(PIP) -e .
	@touch $@

.venv/.dev: $(PINS)
	@PYTHON="$(PYTHON)" .ci/venv
	$(PIP) -e '.[dev]'
	@touch .venv/.run $@
