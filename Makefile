# Targets; `make help` prints this list.
#
# make            set up .venv and run the demo, or another experiment: make EXPERIMENT=config/mine.yaml
# make help       print this list
# make report     the same run, then Snakemake's own HTML report of it
# make plan       what the trainings of EXPERIMENT cost here (default: config/imagenet.yaml, the whole paper)
# make device     measure this machine (GPU or CPU) in MINUTES=8 and write its rows into results/devices; the same command
#                 goes on where it was stopped
# make test       the tests that need neither root nor much time
# make test-all   all tests: also the long ones, Slurm and a browser (root installs them), conda and Kubernetes
# make lint       ruff, mypy, snakefmt and snakemake --lint
# make lab        open the results in JupyterLab
# make docs       draw diagrams and keys into docs/, and build the pages as site/index.html
# make reference  check the committed measurements, draw the figures of paper_figures/reference from them, and write the
#                 ledger of all evidence into results/reference
# make unlock     remove the lock that a killed run left in this folder
# make setup      set up .venv and nothing else
# make lock       resolve requirements.lock again from pyproject.toml (needs uv)
#
# CORES=N limits the cores. ARGS="..." passes further options on: ARGS=-n only lists the steps that a run would take.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := demo

# A PYTHONHOME is another Python's, and breaks the one here. `$(shell)` does not see `unexport`.
unexport PYTHONHOME
PYTHON ?= $(shell unset PYTHONHOME; for name in python3 python3.13 python3.12 python3.11 python3.14; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
CORES ?= all
ARGS ?=
EXPERIMENT ?=
MINUTES ?= 8
ifneq ($(EXPERIMENT),)
ifneq ($(shell [ -f "$(EXPERIMENT)" ] && echo yes),yes)
$(error EXPERIMENT=$(EXPERIMENT): $(shell [ -d "$(EXPERIMENT)" ] && echo "this is a folder; name an experiment file in it" \
  || echo "there is no such file; config/ holds examples"))
endif
endif
CONFIG := $(if $(EXPERIMENT),--configfile "$(EXPERIMENT)")
# Snakemake keeps a cache in the home folder; a user without one (docker run -u 1234) gets it here.
ifeq ($(shell [ -w "$$HOME" ] && echo writable),)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif
export PATH := $(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/src

# The programs in .venv name the folder and the Python that they were installed with: after a move, a copy or an upgrade
# of Python they are installed again.
INSTALLED_IN := $(shell unset PYTHONHOME; [ ! -e $(READY) ] || { $(VENV)/bin/python -c '' 2>/dev/null && cat $(READY); } || echo "?")
ifneq ($(INSTALLED_IN),)
ifneq ("$(INSTALLED_IN)","$(CURDIR)")
STALE := stale
endif
endif

QUICK := not slow and not slurm and not conda and not kubernetes and not browser

# Snakemake does not say where a file is not YAML, that it is empty, or that it has a key twice.
READABLE = python -m repvgg_companion.experiment.read_yaml "$(EXPERIMENT)";

# One run at a time, by a lock of our own: Snakemake's is gone as soon as a second run ends. Snakemake's lock stays after a
# kill; a run that finds it says what to do, and a run that fails for another reason has released it. Bash runs a trap only
# between two commands, or in `wait`: so Snakemake runs beside it, with Ctrl-C as it was, and gets the SIGTERM of make.
# A stop is reported in one line: REPVGG_COMPANION_MAKE says that make reports it, and with status 0 make, which the signal
# ends anyway, adds no error.
RUN = $(if $(EXPERIMENT),$(READABLE)) exec 8<requirements.lock; if command -v flock >/dev/null && ! flock -n 8; then \
  echo "make: another run works in this folder; wait for it, or work in a copy of the folder" >&2; exit 1; fi; \
  stopped=; run=; trap 'stopped=yes' INT; trap 'stopped=yes; kill -TERM $$run 2>/dev/null || true' TERM; \
  said=$$(mktemp); (trap - INT TERM; REPVGG_COMPANION_MAKE=$$said exec snakemake --cores $(CORES) --logger steps $(CONFIG) $(ARGS)) & run=$$!; \
  status=0; wait $$run || status=$$?; while kill -0 $$run 2>/dev/null; do status=0; wait $$run || status=$$?; done; \
  told=$$(cat $$said); rm -f $$said; \
  [ $$status = 0 ] || { \
  if [ -n "$$stopped$$told" ]; then echo "make: stopped; type the same command again to continue" >&2; fi; \
  if [ -n "$$stopped" ]; then exit 0; fi; \
  if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ]; then \
    echo "make: this folder is locked by another run. Wait for it; if none is running, since the last one was killed," \
      "type 'make unlock' and then the same command again: finished work is kept, trainings continue." >&2; fi; \
  exit $$status; }

.PHONY: demo help test test-all lint lab plan device docs reference report unlock lock setup stale
.PHONY: reference-figures reference-ledger

demo: $(READY)
	@$(RUN)

help:
	@sed -n 's/^# \{0,1\}//; /^SHELL/q; p' Makefile

test: $(READY)
	@echo "Left out here, run by 'make test-all': slow (long kill tests, large archives), slurm, conda, kubernetes, browser."
	@OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "$(QUICK)" $(ARGS)

test-all: $(READY)
	@OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	@ruff check src tests benchmarks
	@ruff format --check src tests benchmarks
	@mypy
	@snakefmt --check Snakefile workflow
	@snakemake --lint

lab: $(READY)
	@jupyter lab notebooks/results.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

plan: $(READY)
	@python -m repvgg_companion plan "$(or $(EXPERIMENT),config/imagenet.yaml)" $(ARGS)

device: $(READY)
	@python -m repvgg_companion measure-device --minutes $(MINUTES) $(ARGS)

docs: $(READY)
	@python docs/draw.py
	@python docs/keys.py
	@sphinx-build -q -W --keep-going docs site

reference: $(READY)
	@python -m repvgg_companion check-devices
	@python -m repvgg_companion check-studies
	@$(MAKE) --no-print-directory -j2 reference-figures reference-ledger

reference-figures: $(READY)
	@python -m repvgg_companion figures --experiment reference --results results/devices \
	  --output paper_figures/reference --commit $(PINNED)

reference-ledger: $(READY)
	@python -m repvgg_companion ledger --output results/reference --figures paper_figures/reference \
	  --commit $(PINNED)

report: $(READY)
	@$(RUN)
	@name=$$(python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["experiment"])' \
	  "$(or $(EXPERIMENT),config/demo.yaml)"); \
	snakemake $(CONFIG) --report "results/$$name/snakemake-report.html"

unlock: $(READY)
	@snakemake $(CONFIG) --unlock

setup: $(READY)

# The user's settings of pip that the set-up keeps: package sources, network and output. It drops all others, such as a
# target folder, which are meant for other installations.
PIP_KEEPS := ^PIP_(.*INDEX.*|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|FIND_LINKS|.*CACHE_DIR|.*TIMEOUT|RETRIES|CONFIG_FILE|KEYRING_PROVIDER|NO_INPUT|QUIET|VERBOSE|PROGRESS_BAR)$$

# Without a terminal pip prints a line for each package, or nothing for minutes. So its large downloads are shown, and the
# start of the installation.
PIP_LARGE := (Downloading|Using cached) (.*/)?([^/ ]+)\.whl \(([0-9]{3,}\.[0-9] MB|[0-9.]+ GB)\)
PIP_TOLD = while IFS= read -r line; do large='$(PIP_LARGE)'; \
  if [[ $$line =~ $$large ]]; then name=$${BASH_REMATCH[3]%%-cp3*}; echo "  $${name%%-py*} ($${BASH_REMATCH[4]})"; \
  elif [[ $$line == "Installing collected packages"* ]]; then \
    echo "Set-up, 3 of 3: installing the packages, 6 GB on the disk, some minutes ..."; fi; done

# Committed figures name no commit: it would change them although nothing that they show has changed.
PINNED := "see the history of this file"

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
	echo "Set-up, 1 of 3: $(VENV) with $$($(PYTHON) --version) ..."; \
	existed=; if [ -e $(VENV) ]; then existed=yes; else mkdir $(VENV); touch $(VENV)/.started; fi; \
	$(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  if [ -z "$$existed" ]; then rm -rf $(VENV); fi; exit 1; }; \
	for name in $${!PIP_@}; do [[ $$name =~ $(PIP_KEEPS) ]] || unset $$name; done; \
	install() { "$(BIN)/python" -m pip install --disable-pip-version-check --no-user --target= \
	  --prefix="$(CURDIR)/$(VENV)" --root=/ --require-hashes -r requirements.lock; }; \
	echo "Set-up, 2 of 3: downloading the packages of requirements.lock, about 3 GB, once, some minutes ..."; \
	if [ -t 1 ]; then install; else install | { $(PIP_TOLD); }; fi || { \
	  echo "make: installing the packages failed, for the reason above; is the network (or a proxy) and 8 GB of disk" \
	    "there? Type the same command again then: what was downloaded is kept." >&2; exit 1; }; \
	"$(BIN)/python" -c 'import snakemake' || { \
	  echo "make: pip did not install the packages into $(VENV); see where its settings send them:" \
	    "$(BIN)/python -m pip config list" >&2; exit 1; }; \
	echo "$(CURDIR)/src" > "$$("$(BIN)/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/repvgg_companion.pth"; \
	rm -f $(VENV)/.started; echo "$(CURDIR)" > $(READY); echo "$(VENV) is set up."

lock:
	uv pip compile pyproject.toml --extra test --extra backends --extra crate --extra docs --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --constraint requirements.in --output-file requirements.lock
