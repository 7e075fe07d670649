# Needs Python 3.11 or newer with pip, and make. Everything else is installed below this folder.

PYTHON     ?= python3
ARGS       ?=
UV_VERSION := 0.13.9

UV         := .uv/bin/uv
UV_STAMP   := .uv/uv-$(UV_VERSION).stamp
VENV       := .venv
BIN        := $(VENV)/bin
SETUP      := $(VENV)/setup.stamp

# uv must take the Python that is here, not fetch one.
export UV_PYTHON_DOWNLOADS := never
# With it every process that the tests start would compile all that it imports, which takes a second.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup packages demo test test-fast fuzz chaos soak lint format bench bench-keys bench-quick generate docs \
	diagrams dashboards-live cluster cluster-down e2e bench-scaling bench-scaling-long bench-faults bench-operator bench-node \
	tools dist lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'demo, test, test-fast, chaos, soak, bench, e2e and lock pass ARGS on: make test ARGS="-k retry"'
	@echo 'Another Python: make setup PYTHON=python3.13; beside the first one: ... VENV=.venv-3.13'

setup: $(SETUP) ## Install the tools and the package into .venv
	@echo "Ready: $(BIN)/meshhook"

packages: ## Install what the tests of Kubernetes, PgBouncer and Prometheus need (Debian, root)
	@command -v apt-get >/dev/null || { \
		echo "make packages is for Debian. Install what tests/packages.txt lists." >&2; exit 1; }
	@test "`id -u`" = 0 || { echo "make packages needs root" >&2; exit 1; }
	@dpkg-query -W $$(cat tests/packages.txt) >/dev/null 2>&1 || { apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
			$$(cat tests/packages.txt); }

demo: $(SETUP) ## Run the demonstration
	@$(BIN)/meshhook demo $(ARGS)

# Three processes keep two cores busy: tests often wait, for a timer, a lease or a pod.
test: $(SETUP) ## Run the tests, three at a time (one at a time: ARGS=-n0)
	@$(BIN)/python -m pytest -n 3 --max-worker-restart=0 $(ARGS)

test-fast: $(SETUP) ## Run the quick tests that need no cluster and no build: a minute
	@$(BIN)/python -m pytest -n 2 -m "(unit or process or database) and not slow" $(ARGS)

fuzz: $(SETUP) ## Search for texts that break what decodes them (Linux; FUZZ_SECONDS=60 a target)
	@for target in $${TARGETS:-`PYTHONPATH=tests $(BIN)/python -c \
		'from support.fuzz_targets import TARGETS; print(*TARGETS)'`}; do \
		echo "== $$target"; \
		PYTHONPATH=tests $(BIN)/python -m support.fuzz_search $$target \
			-max_total_time=$${FUZZ_SECONDS:-60} $(ARGS) || exit 1; \
	done
	@MESHHOOK_FUZZ=20 $(BIN)/python -m pytest tests/fuzz -v

chaos: $(SETUP) ## Run the storms: processes, servers and networks that fail (15 minutes)
	@$(BIN)/python -m pytest tests/chaos/storms tests/worker -m chaos -v $(ARGS)

soak: $(SETUP) ## Run 500 jobs a second for an hour, and see that nothing grows (ARGS="--minutes 5")
	@PYTHONPATH=tests $(BIN)/python -m support.chaos.soaking $(ARGS)

lint: $(SETUP) ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file bench/pyproject.toml
	$(BIN)/lint-imports --no-logo
	$(BIN)/lint-imports --no-logo bench/pyproject.toml

format: $(SETUP) ## Format the code and mend what can be mended safely
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(SETUP) ## Run the benchmarks, and write docs/benchmarks.md
	@$(BIN)/python -m bench.run $(ARGS)

bench-keys: $(SETUP) ## Measure queues with keys in 15 minutes, and write their part of docs/benchmarks.md
	@mkdir -p bench/results
	@$(BIN)/python -m bench.run --subjects meshhook --only 'keys_*' --minutes 15 \
		--json bench/results/keys.json --keys-document docs/benchmarks.md $(ARGS)

bench-quick: $(SETUP) ## Run a small round of at most 5 minutes; a JSON object a line
	@$(BIN)/python -m bench.run --quick --lines $(ARGS)

generate: $(SETUP) ## Write what is made from code: dashboards, JobQueue definition, tables of docs
	@$(BIN)/python -m grafana.dashboards
	@$(BIN)/python -m meshhook_operator.api.crd > operator/crds/jobqueues.meshhook.io.yaml
	@$(BIN)/python -m meshhook_operator.api.schedule_crd > operator/crds/jobschedules.meshhook.io.yaml
	@$(BIN)/python -m meshhook_operator.api.reference docs/operator.md
	@$(BIN)/python -m meshhook.observability.metrics_page > docs/metrics.md
	@$(BIN)/python deploy/helm/values_table.py

docs: $(SETUP) ## Build the documentation site into site/, without a network
	@$(BIN)/python docs/_site/build.py

diagrams: ## Draw the diagrams of docs/ anew from their sources (Graphviz)
	@for source in docs/diagrams/*.dot; do dot -Tsvg "$$source" -o "$${source%.dot}.svg" || exit 1; done

dashboards-live: $(SETUP) ## Run a fleet under a Prometheus, for a Grafana of yours to show
	@PYTHONPATH=tests $(BIN)/python -m grafana.live $(ARGS)

cluster: $(SETUP) ## Start a real one-node Kubernetes with the chart installed (Linux, root, Go)
	@tests/e2e/play up

cluster-down: ## Stop it, and remove all of it
	@tests/e2e/play down

e2e: $(SETUP) ## Run the end-to-end tests on that node, or on the cluster of KUBECONFIG
	@E2E_KUBECONFIG="$${E2E_KUBECONFIG-$$KUBECONFIG}" $(BIN)/python -m pytest tests/e2e -v -s $(ARGS)

bench-scaling: $(SETUP) ## Play simulated loads against our scaler and KEDA's
	@$(BIN)/python -m bench.scaling.run $(ARGS)

bench-scaling-long: $(SETUP) ## Play simulated long jobs and slow pods against them
	@$(BIN)/python -m bench.scaling.long_run $(ARGS)

bench-faults: $(SETUP) ## Put MeshHook Queue and others through the same faults
	@PYTHONPATH=tests $(BIN)/python -m bench.faults.run $(ARGS)

bench-operator: $(SETUP) ## Measure the operator with 500 JobQueues on a real API server
	@PYTHONPATH=tests $(BIN)/python -m bench.operator.run $(ARGS)

bench-node: $(SETUP) ## Play loads against the operator on that node, in half an hour
	@PYTHONPATH=tests $(BIN)/python -m bench.node.run $(ARGS)

tools: ## Build Kubernetes and the other programs of the tests ahead of them (Go; once)
	@$(PYTHON) tests/support/cluster/programs.py

dist: $(SETUP) ## Build the sdist and the wheel into dist/, from the locked build backend
	@rm -rf dist
	@$(BIN)/hatchling build

lock: $(UV_STAMP) ## Write requirements.lock anew (ARGS=--upgrade: newest versions)
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url \
		--all-extras --group dev pyproject.toml -o requirements.lock $(ARGS)
	@echo "Wrote requirements.lock"

clean: ## Remove .venv, .uv, caches and builds (not the data in .meshhook)
	rm -rf .venv .venv-* .uv dist site .site .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find worker operator tests bench examples -name __pycache__ -type d -prune \
		-exec rm -rf {} + 2>/dev/null || true

$(UV_STAMP):
	@$(PYTHON) -c 'import sys' 2>/dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one:" \
			"make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is too old: `$(PYTHON) --version 2>&1`. MeshHook Queue needs Python 3.11" \
			"or newer. Name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import pip' 2>/dev/null || { \
		echo "$(PYTHON) has no pip. Install it (on Debian: apt-get install python3-pip)." >&2; exit 1; }
	@echo "Installing uv $(UV_VERSION) into .uv"
	@rm -rf .uv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--target .uv uv==$(UV_VERSION)
	@touch $@

# `--python` keeps uv away from a virtual environment that happens to be active.
$(SETUP): requirements.lock pyproject.toml $(UV_STAMP)
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(UV) venv --quiet --clear --no-project \
		--python "`$(PYTHON) -c 'import sys; print(sys.executable)'`" $(VENV); }
	@echo "Installing the packages of requirements.lock into $(VENV)"
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@echo "Installing meshhook-queue into $(VENV) (editable)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
