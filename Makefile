# make            set up .venv and run the whole pipeline on the embedded demo data
# make test       set up .venv and run the tests that need neither root nor much time
# make test-all   all tests: also the long ones, Slurm and a browser (root installs them), conda and Kubernetes
#                 (stand-ins fetched by pip)
# make lint       ruff, snakefmt and snakemake --lint
# make lab        open the results in JupyterLab
# make plan       what training the whole paper costs here; EXPERIMENT=config/NAME.yaml for another experiment
# make reference  check the committed measurements and draw paper_figures/reference from them and the paper
# make report     Snakemake's own HTML report of the demo, with the rule graph and run times
# make unlock     remove the lock that a killed run left in this folder
# make setup      set up .venv and nothing else
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

# The programs in .venv name the folder and the Python that they were installed with: after a move, a copy or an upgrade
# of Python they are installed anew.
INSTALLED_IN := $(shell [ ! -e $(READY) ] || { $(VENV)/bin/python -c '' 2>/dev/null && cat $(READY); } || echo "?")
ifneq ($(INSTALLED_IN),)
ifneq ("$(INSTALLED_IN)","$(CURDIR)")
STALE := stale
endif
endif

QUICK := not slow and not slurm and not conda and not kubernetes and not browser

# What a run that found this folder locked should be told; a run that fails otherwise has given its lock back.
RUN = snakemake --cores $(CORES) $(ARGS) || { status=$$?; \
  if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ]; then \
    echo "make: this folder is locked by another run. Wait for it; if none is running, since the last one was killed," \
      "type 'make unlock' and then 'make' again: finished work is kept, trainings continue." >&2; fi; \
  exit $$status; }

.PHONY: demo test test-all lint lab plan reference report unlock lock setup stale

demo: $(READY)
	@$(RUN)

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
	@$(RUN)
	@snakemake --report results/demo/snakemake-report.html

unlock: $(READY)
	@snakemake --unlock

setup: $(READY)

# One set-up at a time; .started marks one that was interrupted, whose packages may be incomplete.
$(READY): requirements.lock $(STALE)
	@exec 9<Makefile; if command -v flock >/dev/null; then \
	  flock -n 9 || { echo "Waiting for another set-up in this folder ..."; flock 9; }; fi; \
	if [ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(VENV)/bin/python -c '' 2>/dev/null && \
	  [ $(READY) -nt requirements.lock ]; then exit 0; fi; \
	if [ -z "$(PYTHON)" ]; then \
	  echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if [ -n "$(STALE)" ]; then echo "This folder was moved or copied, or Python was upgraded: $(VENV) is built anew."; fi; \
	if [ -n "$(STALE)" ] || [ -e $(VENV)/.started ]; then rm -rf $(VENV); fi; \
	echo "Setting up $(VENV) with $$($(PYTHON) --version): a download of about 3 GB, once, some minutes ..."; \
	existed=; if [ -e $(VENV) ]; then existed=yes; else mkdir $(VENV); touch $(VENV)/.started; fi; \
	$(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  if [ -z "$$existed" ]; then rm -rf $(VENV); fi; exit 1; }; \
	quiet=--quiet; if [ -t 1 ]; then quiet=; fi; \
	"$(BIN)/python" -m pip install $$quiet --disable-pip-version-check --require-hashes -r requirements.lock || { \
	  echo "make: installing the packages failed, for the reason above; is the network (or a proxy) and 6 GB of disk" \
	    "there? Type 'make' again then: what was downloaded is kept." >&2; exit 1; }; \
	rm -f $(VENV)/.started; echo "$(CURDIR)" > $(READY)

lock:
	uv pip compile pyproject.toml --extra test --extra backends --extra crate --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --constraint requirements.in --output-file requirements.lock
