# make run · make test · make docs: each sets up what it needs, in .venv, once.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run setup test hub golden coverage bench lint docs readme export hooks clean

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

help: ## this list
	@echo "make run, with MODEL=$(MODEL) OUT=$(OUT) ARGS=\"…\"; make bench takes ARGS; the others no argument."
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name does; do printf '  make %-10s %s\n' "$$name" "$$does"; done

run: $(VENV)/.run ## map every head of MODEL (default: the bundled one, offline) and write OUT
	@echo "── attn-lit run --model $(MODEL) --out $(OUT) $(ARGS)"
	@$(if $(filter tiny,$(MODEL)),$(offline)) $(bin)/attn-lit run --model $(MODEL) --out $(OUT) $(ARGS)

test: $(VENV)/.dev ## every notebook as a test, WORKERS at a time, then tests/ with pytest
	@failed=0; \
	echo "── nbdev_test of nbs/, $(WORKERS) at a time"; \
	$(offline) $(bin)/python scripts/notebooks.py --workers $(WORKERS) || failed=1; \
	echo "── pytest of tests/"; \
	$(offline) $(bin)/python -m pytest || failed=1; \
	exit $$failed

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

lint: $(VENV)/.dev ## ruff over modules, notebooks, tests, scripts and bench
	@echo "── ruff"
	@$(bin)/python -m ruff check --output-format concise .

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

# torch first and by itself, so that only it is looked up in TORCH_INDEX.
$(VENV)/.run: $(facts) | $(bin)/python
	@echo "── run-time dependencies (once; a few minutes)"
	@index=; if [ -n "$(TORCH_INDEX)" ] && ! $(bin)/python -c 'import torch' 2>/dev/null; then \
		if $(bin)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=10)' 2>/dev/null; \
		then index="--extra-index-url $(TORCH_INDEX)"; \
		else echo "   $(TORCH_INDEX) cannot be reached: torch comes from where pip looks by default"; fi; fi; \
		$(pip) $$index torch
	@$(pip) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "── development dependencies (once)"
	@$(pip) --editable '.[dev]'
	@touch $@
