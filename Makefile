# Everything a contributor or a curious visitor needs; `make help` lists it.
# Installation writes to stderr only, so that `make demo ARGS=--json` prints JSON and nothing else.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-long test-fast check docs bench lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Everything into .venv, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@

demo: install ## A whole search on this machine in minutes; ARGS=--json for machines
	@$(BIN)/nas demo $(ARGS)

serve: install ## The service with API and dashboard; ARGS="--port 8000"
	@$(BIN)/nas serve $(ARGS)

test: install ## All tests but the longest; ARGS="-k pareto" to choose
	@$(BIN)/python -m pytest -n 3 -m "not long" $(ARGS)

test-long: install ## The longest tests
	@$(BIN)/python -m pytest -m long $(ARGS)

test-fast: install ## Tests that take seconds each, for use while editing
	@$(BIN)/python -m pytest -n 2 -m "not slow and not acceptance" $(ARGS)

check: install ## Format, lint, types, import rules, names, dependencies, compose file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.names
	@$(BIN)/python -m deptry nas search_spaces predictors server workers agent
	@$(BIN)/python -m deptry --ignore DEP002,DEP004 benchmarks tools tests
	@$(BIN)/yamllint --strict docker/compose.yaml .yamllint.yaml

docs: install ## The documentation site into server/help_site, which `nas serve` shows under /help
	@$(BIN)/python -m tools.docs_pages

bench: install ## The benchmarks; results into benchmarks/results
	@for name in depthwise explorer dry_run spaces malformed service_load idle_memory dashboard service_scale kill_matrix replicas measuring this_machine runtimes layer_composition latency_transfer nb201_oracle nb201_search small_budget la_darts_bounds darts_step fewshot_rank proxy_hints shrinking schedules cascades retraining own_model; do \
		$(BIN)/python -m benchmarks.$$name --json > benchmarks/results/$$name.json.new || exit 1; \
		mv benchmarks/results/$$name.json.new benchmarks/results/$$name.json; \
	done

lock: ## Newest versions that pyproject.toml allows into constraints.txt
	@rm -rf $(VENV)-lock
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip --quiet --disable-pip-version-check install -e '.[dev,postgres,s3]'
	@$(VENV)-lock/bin/python -m pip freeze --exclude-editable \
		| sed -E '/^(nvidia-|triton)/d; s/\+[a-z0-9.]+$$//' > constraints.txt
	@rm -rf $(VENV)-lock

clean: ## Removes .venv and everything that was built
	@rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
