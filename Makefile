# Everything a developer types. `make` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
STUBS := build/stubs
PEERS := .venv-bench
FAULT_TESTS := tests/faults tests/contract/trainer_control tests/contract/dataset tests/contract/rpc
# pip, protoc and buf find each other's plugins here.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install protos lint types architecture format check test demo bench bench-training faults wheel clean

help: ## This list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

# torch first and by itself: another resolver run would take a build of several gigabytes.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --upgrade pip
	python -m pip install --quiet torch==2.13.0
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(STUBS): $(INSTALLED) scripts/generate_stubs.py $(shell find protos -name '*.proto')
	python scripts/generate_stubs.py
	@touch $@

install: $(STUBS) ## The virtual environment with everything, and the stubs.

protos: $(STUBS) ## The gRPC stubs and their types, from protos/.

lint: $(STUBS) ## Protos, style and formatting.
	buf lint
	buf format --diff --exit-code protos
	ruff check .
	ruff format --check .

types: $(STUBS) ## Pyright, strict.
	pyright

architecture: $(STUBS) ## Who may import whom (pyproject.toml).
	lint-imports --no-cache

format: $(STUBS) ## Put the code in order.
	buf format -w protos
	ruff check --fix .
	ruff format .

check: lint types architecture ## Everything but the tests.

test: check ## Everything: lint, types, contracts, all tests.
	pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: $(STUBS) ## The whole way: examples, training, registry, blind test.
	python scripts/demo.py

bench: $(STUBS) ## The figures of docs/performance.md.
	python -m benchmarks

# The trainers that ours is measured beside live apart: none of them is a dependency.
$(PEERS)/installed: benchmarks/training/requirements.txt constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	echo '*' > $(PEERS)/.gitignore
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt \
		--requirement benchmarks/training/requirements.txt
	@touch $@

bench-training: $(STUBS) $(PEERS)/installed ## Our engine beside the usual trainers; options: ARGS="…".
	python -m benchmarks.training $(ARGS)

faults: $(STUBS) ## Kills, outages, full disks, the long version; one alone: faults-R3.
	pytest $(FAULT_TESTS) --faults=long -m fault

faults-%: $(STUBS)
	pytest $(FAULT_TESTS) --faults=long --fault=$* $(ARGS)

wheel: $(STUBS) ## A wheel with the stubs in it.
	python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what was made; the virtual environment stays.
	rm -rf build dist anneal/*/v1 anneal-data .pytest_cache .ruff_cache .hypothesis
