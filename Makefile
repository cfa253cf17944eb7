# `make help` explains every target
.DEFAULT_GOAL := help
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | expand -t 14

.venv/installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[dev,demo]'
	@touch $@

install: .venv/installed  ## make .venv and install the package with its tools (CONSTRAINTS= for the newest versions)

demo: .venv/installed  ## make videos, train a small ILA on them, evaluate it, reload it and classify a clip
	$(BIN)/ila-hf motion-videos --output_dir outputs/demo/videos
	$(BIN)/ila-hf tiny-model --interaction_token --first_frame self --output_dir outputs/demo/untrained
	$(BIN)/python examples/run_video_classification.py examples/configs/demo.json
	$(BIN)/python examples/demo_report.py --model outputs/demo/model --videos outputs/demo/videos/validation

# One process per core, and one thread in each: they would wait for each other
test: .venv/installed  ## run the tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

test-slow: .venv/installed  ## run the slow tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses logical --dist loadfile

quality: .venv/installed  ## check format, style, types, and transformers' rules for model files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/conformance/lint_models.py

format: .venv/installed  ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

flops: .venv/installed  ## count the FLOPs of the ten published variants
	$(BIN)/python benchmarks/count_flops.py

docs: .venv/installed  ## build the documentation site into docs/_build; every broken reference is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build

cards: .venv/installed  ## renew the cards of the published variants
	$(BIN)/ila-hf model-cards --output_dir model_cards

.PHONY: help install demo test test-slow quality format flops docs cards
