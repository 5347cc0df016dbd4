# Everything a new checkout needs: `make demo` runs the main job end to end, `make test` passes the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
DEMO := yamls/demo

.PHONY: help setup demo test test-cluster soak check format lock clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make .venv and install the locked stack (about 6 GB on disk)

$(READY): requirements.lock launch/megablocks_build/torch/__init__.py
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or run make PYTHON=/path/to/python3.11"; exit 2; }
	@command -v java >/dev/null || { echo "make: java not found; Spark needs Java 17 (Debian: openjdk-17-jre-headless)"; exit 2; }
	@echo "setup: making $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -oE '^uv==[0-9.]+' requirements.lock)
	@echo "setup: installing the locked stack (about 6 GB on disk; minutes on the first run)"
	@PYTHONPATH=$(CURDIR)/launch/megablocks_build VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: setup ## real text -> tokens -> a trained model -> runs/demo/report.html, in about 5 minutes
	@$(BIN)/python -m data.demo_corpus corpus/demo
	@$(BIN)/brickyard prepare $(DEMO)/data.yaml
	@$(BIN)/brickyard plan $(DEMO)/pretrain.yaml
	@$(BIN)/brickyard train $(DEMO)/pretrain.yaml
	@$(BIN)/brickyard report runs/demo
	@echo
	@echo "What next:"
	@echo "  go on for longer   $(BIN)/brickyard train $(DEMO)/pretrain.yaml max_duration=320ba"
	@echo "  another curriculum $(BIN)/brickyard train $(DEMO)/pretrain.yaml run_name=late-code 'curriculum.anchors[1].weights={prose: 0, reference: 0.1, code: 0.9}'"
	@echo "  two ranks          $(BIN)/brickyard launch local -n 2 $(DEMO)/pretrain.yaml run_name=two-ranks"
	@echo "  text from it       $(BIN)/brickyard generate runs/demo --prompt 'def '"

check: setup ## ruff (lint and format) and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## run every test
	$(BIN)/python -m pytest

test-cluster: setup ## run the tests that start a Spark or a SLURM cluster, or hosts with sshd, on this machine
	$(BIN)/python -m pytest -m cluster -rs

soak: setup ## kill and resume a small run on random layouts for MINUTES (10) minutes
	PYTHONPATH=.:tests $(BIN)/python tests/train/soak.py $(or $(MINUTES),10)

lock: ## compile requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header -o requirements.lock

clean: ## remove what the demo made; keeps .venv
	rm -rf corpus/demo datasets/demo datasets/.demo.* runs/demo .pytest_cache .ruff_cache
