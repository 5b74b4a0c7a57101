# make            set up .venv and run the whole pipeline on the embedded demo data
# make test       set up .venv and run the tests that need neither root nor much time
# make test-all   all tests: also the long ones, Slurm (root installs it), conda and Kubernetes (stand-ins fetched by pip)
# make lint       ruff, snakefmt and snakemake --lint
# make lab        open the results in JupyterLab
# make plan       what training the whole paper costs here; EXPERIMENT=config/NAME.yaml for another experiment
# make reference  check the committed measurements and draw paper_figures/reference from them and the paper
# make report     Snakemake's own HTML report of the demo, with the rule graph and run times
# make lock       resolve requirements.lock anew from pyproject.toml (needs uv)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := demo

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
CORES ?= all
ARGS ?=
EXPERIMENT ?= config/imagenet.yaml
export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/src

QUICK := not slow and not slurm and not conda and not kubernetes and not browser

.PHONY: demo test test-all lint lab plan reference report lock setup

demo: $(READY)
	@snakemake --cores $(CORES) $(ARGS)

test: $(READY)
	@echo "Left out here, run by 'make test-all': slow (long kill tests, large archives), slurm, conda, kubernetes, browser."
	@OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "$(QUICK)" $(ARGS)

test-all: $(READY)
	@OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	@ruff check src tests benchmarks
	@ruff format --check src tests benchmarks
	@snakefmt --check Snakefile workflow
	@snakemake --lint

lab: $(READY)
	@jupyter lab notebooks

plan: $(READY)
	@python -m repvgg_companion plan $(EXPERIMENT) $(ARGS)

reference: $(READY)
	@python -m repvgg_companion check-devices
	@python -m repvgg_companion figures --experiment reference --results results/devices --output paper_figures/reference

report: $(READY)
	@snakemake --cores $(CORES) $(ARGS)
	@snakemake --report results/demo/snakemake-report.html

setup: $(READY)

$(READY): requirements.lock
	@if [ -z "$(PYTHON)" ]; then \
	  echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): a download of about 3 GB, once, some minutes ..."
	@$(PYTHON) -m venv $(VENV) || { echo "make: 'python3 -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $(READY)

lock:
	uv pip compile pyproject.toml --extra test --extra backends --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --constraint requirements.in --output-file requirements.lock
