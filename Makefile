# make demo: set up, then let a real frozen DINOv2 and a real frozen LLM learn to answer questions
# make setup: the environment in .venv alone
# make test: set up, then the tests
# make methods: every method on the demo's data and models
# make smoke: every stage on tiny data with tiny random models
# make lint: style, types, and what a room may import
# make docs: the documentation, in build/docs
# make bench: a table of speed; make bench-gpu: the same on a GPU, with the shapes of a 7B model
# make clean: forget results, keep downloads
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt
DEMO := $(BIN)/snakemake --configfile config/demo.yaml

.PHONY: demo setup methods smoke test lint docs bench bench-gpu clean

# `--unlock` takes away the lock that a killed run leaves behind
demo: $(VENV)/.installed
	$(DEMO) --unlock
	$(DEMO)
	@cat results/tables/demo.md
	@echo "What it says, plots and a gallery of answers: results/report.html"

setup: $(VENV)/.installed

methods: $(VENV)/.installed
	$(BIN)/snakemake --configfile config/methods.yaml
	@cat results/tables/methods.md

smoke: $(VENV)/.installed-dev
	$(BIN)/python tests/smoke/build.py resources/smoke
	$(BIN)/snakemake --configfile config/smoke.yaml
	$(BIN)/snakemake --configfile config/smoke.yaml config/smoke-webdataset.yaml

# the workers share the cores: more threads in each would wait for each other
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=40

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/run.py

bench-gpu: $(VENV)/.installed-dev
	$(BIN)/python bench/gpu.py cuda

clean:
	rm -rf results logs .snakemake

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info[:2] in ((3, 11), (3, 12)) or sys.exit("Python 3.11 or 3.12 is needed, not " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,clap,quantize,slurm,wandb]'
	$(PIP) --no-deps laion-clap lmms-eval
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	touch $@
