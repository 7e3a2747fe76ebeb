# make         set up .venv and run the study in config.yaml
# make test    set up .venv and run the tests
# make bench   time the study, a re-plot, a dry run, and what reading attention costs; an hour
# make lint    style, types, and the workflow's own checks
# make docs    write the generated parts of docs/ again
# make lock    resolve envs/requirements.in afresh into envs/lock.txt and envs/laglens.yaml
# make sbom    list every locked package with its licence in envs/sbom.json (CycloneDX)
# make clean   delete results, logs and caches; `make distclean` deletes .venv too
#
# CORES=8 make            use 8 cores (default 4)
# PYTHON=python3.12 make  set up with another Python, 3.11 or newer

CORES ?= 4
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3 python; do $$name -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := study
.PHONY: study setup test bench lint docs lock sbom clean distclean
.DELETE_ON_ERROR:

study: setup
	@$(BIN)/snakemake --cores $(CORES)

test: setup
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

bench: setup
	@$(BIN)/python -m benchmarks

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/snakemake --lint
	@$(BIN)/mypy

docs: setup
	@$(BIN)/python docs/tables.py
	@$(BIN)/python docs/notebook.py
	@$(BIN)/python -m laglens.config.document >docs/config.md.new && mv docs/config.md.new docs/config.md

lock: setup
	@$(BIN)/python envs/make_lock.py
	@$(BIN)/python envs/make_conda.py

sbom: setup
	@$(BIN)/python envs/make_sbom.py

clean:
	rm -rf results logs benchmarks/results .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf .venv src/laglens.egg-info

# Stamps hold what was installed: a touched lock costs a comparison, a changed one an installation.
setup: .venv/laglens.toml

.venv/laglens.toml: pyproject.toml .venv/lock.txt
	@cmp -s pyproject.toml $@ || $(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@cp pyproject.toml $@

.venv/lock.txt: envs/lock.txt | .venv/bin/pip
	@cmp -s envs/lock.txt $@ || { \
	  echo "Installing $$(grep -c == envs/lock.txt) packages into .venv; the first time this takes minutes and about 7 GB"; \
	  $(PIP) install --no-deps --requirement envs/lock.txt; }
	@cp envs/lock.txt $@

# pip is the last thing that venv puts in place, so an interrupted set-up starts again here.
.venv/bin/pip:
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "laglens needs Python 3.11 or newer, not $(or $(PYTHON),what is here); name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments; on Debian and Ubuntu first: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
