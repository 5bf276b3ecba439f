# make run · make test · make docs: each sets up what it needs, in .venv, once.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run setup test test-oldest test-newest hub golden coverage bench fuzz lint types docs docs-check readme export hooks \
	clean

PYTHON  ?= python3
VENV    ?= .venv
MODEL   ?= tiny
OUT     ?= outputs
ARGS    ?=
WORKERS ?= 2
# Where torch comes from on Linux, beside the default index, which has only the build with several GB of CUDA
# libraries. Where there is an NVIDIA driver that is the build you want, so it is left out; empty turns it off.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

bin     := $(VENV)/bin
pip     := $(bin)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
facts   := settings.ini setup.py pyproject.toml constraints.txt
offline := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

define suite
failed=0; \
echo "── nbdev_test of nbs/, $(WORKERS) at a time"; \
$(offline) $(1)/python scripts/notebooks.py --workers $(WORKERS) || failed=1; \
echo "── pytest of tests/, $(WORKERS) at a time"; \
$(offline) OMP_NUM_THREADS=1 $(1)/python -m pytest --numprocesses $(WORKERS) --dist worksteal || failed=1; \
exit $$failed
endef

help: ## this list
	@echo "make run, with MODEL=$(MODEL) OUT=$(OUT) ARGS=\"…\"; make bench and make fuzz take ARGS; the others no argument."
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name does; do printf '  make %-11s %s\n' "$$name" "$$does"; done

run: $(VENV)/.run ## map every head of MODEL (default: the bundled one, offline) and write OUT
	@echo "── attn-lit run --model $(MODEL) --out $(OUT) $(ARGS)"
	@$(if $(filter tiny,$(MODEL)),$(offline)) $(bin)/attn-lit run --model $(MODEL) --out $(OUT) $(ARGS)

test: $(VENV)/.dev ## every notebook as a test, then tests/ with pytest, WORKERS at a time
	@$(call suite,$(bin))

test-oldest: .venv-oldest/.dev ## the same with the lowest versions that settings.ini allows, in .venv-oldest
	@$(call suite,.venv-oldest/bin)

test-newest: .venv-newest/.dev ## the same with the newest versions there are, in .venv-newest
	@$(call suite,.venv-newest/bin)

hub: $(VENV)/.dev ## the numbers published of gpt2, with its weights from the hub
	@echo "── pytest -m hub"
	@HF_HUB_OFFLINE=0 TOKENIZERS_PARALLELISM=false $(bin)/python -m pytest -m hub -rs

golden: $(VENV)/.dev ## the numbers that a run on tiny must give, written anew (README, Development: when that is right)
	@echo "── a run on tiny, kept as tests/golden/tiny.json"
	@$(offline) $(bin)/python tests/golden.py

coverage: $(VENV)/.dev ## the share of attn_lit/ that notebooks and tests reach together
	@rm -f .coverage .coverage.*
	@echo "── notebooks and tests under coverage"
	@$(offline) $(bin)/python scripts/notebooks.py --workers $(WORKERS) --coverage
	@$(offline) $(bin)/python -m coverage run -m pytest
	@$(bin)/python -m coverage combine --quiet
	@$(bin)/python -m coverage report

bench: $(VENV)/.dev ## statistics and ablation of every head, beside other ways: time and memory (45 min; ARGS="--quick": 5)
	@echo "── bench/bench.py $(ARGS)"
	@$(offline) $(bin)/python bench/bench.py $(ARGS)
	@$(if $(ARGS),,echo "── bench/ablation.py"; $(offline) $(bin)/python bench/ablation.py)

fuzz: $(VENV)/.dev ## spoilt files given to everything that reads (ARGS="--n 5000 --only plan --seed 7"); counts inputs and findings
	@echo "── tests/fuzz.py $(ARGS)"
	@$(offline) $(bin)/python tests/fuzz.py $(ARGS)

lint: $(VENV)/.dev ## ruff over modules, notebooks, tests, scripts and bench
	@echo "── ruff"
	@$(bin)/python -m ruff check --output-format concise .

types: $(VENV)/.dev ## mypy over the modules
	@echo "── mypy"
	@$(bin)/python -m mypy

docs: $(VENV)/.dev ## stage the site, check it, render it to _docs with Quarto, open every page in Chromium
	@echo "── the site"
	@$(bin)/python scripts/docs.py

docs-check: $(VENV)/.dev ## the same without Quarto: staged pages, links, references, YAML, sizes, every viewer opened
	@echo "── the site, staged and checked"
	@$(bin)/python scripts/docs.py --check

readme: $(VENV)/.dev ## README.md from nbs/index.ipynb
	@$(bin)/python scripts/readme.py

export: $(VENV)/.dev ## notebooks to modules, notebooks cleaned
	@$(bin)/nbdev_export && $(bin)/nbdev_clean && $(bin)/python scripts/still.py nbs/*.ipynb && echo "attn_lit/ written from nbs/"

hooks: $(VENV)/.dev ## nbdev's git and Jupyter hooks: clean on save, merge by cell
	@PATH="$(abspath $(bin)):$$PATH" $(bin)/nbdev_install_hooks

setup: $(VENV)/.dev ## only set up, for development

clean: ## remove what was built; .venv stays
	rm -rf _proc _docs outputs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find $(wildcard nbs attn_lit tests scripts bench) -name __pycache__ -type d -prune -exec rm -rf {} +

$(bin)/python:
	@echo "── environment in $(VENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Where torch is looked up, for environment $(1): in TORCH_INDEX too, if it can be reached and torch is not there yet.
define torch_index
index=; if [ -n "$(TORCH_INDEX)" ] && ! $(1)/bin/python -c 'import torch' 2>/dev/null; then \
	if $(1)/bin/python -c 'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=10)' 2>/dev/null; \
	then index="--extra-index-url $(TORCH_INDEX)"; \
	else echo "   $(TORCH_INDEX) cannot be reached: torch comes from where pip looks by default"; fi; fi
endef

# torch first and by itself, so that only it is looked up in TORCH_INDEX.
$(VENV)/.run: $(facts) | $(bin)/python
	@echo "── run-time dependencies (once; a few minutes)"
	@$(call torch_index,$(VENV)); $(pip) $$index torch
	@$(pip) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "── development dependencies (once)"
	@$(pip) --editable '.[dev]'
	@touch $@

# Environments beside .venv, without constraints.txt: scripts/versions.py says what goes into them.
.venv-%/.dev: settings.ini scripts/versions.py
	@echo "── environment in .venv-$* (once; a few minutes)"
	@$(PYTHON) -m venv .venv-$*
	@$(PYTHON) scripts/versions.py $* > .venv-$*/requirements.txt
	@$(call torch_index,.venv-$*); \
		.venv-$*/bin/python -m pip --disable-pip-version-check install -qq $$index "$$(grep '^torch[>=]' .venv-$*/requirements.txt)"
	@.venv-$*/bin/python -m pip --disable-pip-version-check install -qq --requirement .venv-$*/requirements.txt
	@.venv-$*/bin/python -m pip --disable-pip-version-check install -qq --no-deps --editable .
	@touch $@
