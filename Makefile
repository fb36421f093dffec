# make demo: a comparison report from a fresh clone.    make help: everything else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Number of test processes: auto is one per core and one more, see tests/conftest.py.
JOBS ?= auto
# The tests' model is so small that threads slow it down.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help setup demo demo-data test test-fast fuzz lint format schema bench bench-peers bench-gpu bench-slurm peers figures pictures clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup demo-data  ## Train and evaluate the demo study; ends with results/report.html
	$(BIN)/snakemake --profile local
	@echo "The report: $(CURDIR)/results/report.html"

demo-data: setup  ## Draw the demo's screens (once)
	@$(BIN)/usertune demo data demo/dataset

test: $(VENV)/.test lint  ## Run all tests, in JOBS processes
	$(TESTS) -n $(JOBS)

test-fast: $(VENV)/.test lint  ## Run lint and the tests that need neither torch nor Snakemake; under 3 minutes
	$(TESTS) -n $(JOBS) --fast tests/architecture tests/unit

fuzz: $(VENV)/.test  ## Fuzz all parsers with hostile input, 10,000 examples per test; about 40 minutes
	USERTUNE_FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/fuzz --timeout 7200

lint: $(VENV)/.test demo-data  ## Check style, types and the workflow
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(VENV)/.test  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile rules

schema: setup  ## Regenerate schemas/study.schema.json and the tables of docs/answers.md and docs/data.md from the code
	$(BIN)/usertune schema

bench: setup  ## Run the benchmarks and store their results; about 30 minutes
	$(BIN)/python benchmarks/batched_generation.py
	$(BIN)/python benchmarks/busy_machine.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/dry_run.py
	$(BIN)/python benchmarks/plan_sweep.py
	$(BIN)/python benchmarks/fingertip_scale.py
	$(BIN)/python benchmarks/many_adapters.py
	$(BIN)/python benchmarks/memory_estimates.py
	$(BIN)/python benchmarks/one_edit.py
	$(BIN)/python benchmarks/report_scale.py
	$(BIN)/python benchmarks/random_folds.py
	$(BIN)/python benchmarks/report_browser.py
	$(BIN)/python benchmarks/reproducibility.py
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/weight_checks.py

bench-peers: setup peers  ## Compare with other trainers and store the results; about 40 minutes, 24 GB of memory
	$(BIN)/python benchmarks/prediction_speed.py
	$(BIN)/python benchmarks/prediction_speed.py --shape demo
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/training_speed.py --mode full
	$(BIN)/python benchmarks/training_speed.py --shape vocabulary
	$(BIN)/python benchmarks/training_speed.py --shape true-2b --reference 0

bench-gpu: setup  ## Measure training and prediction of the true sizes on this machine's GPU and store the results
	$(BIN)/python benchmarks/gpu.py

peers: .peers/trl/.installed .peers/swift/.installed  ## Create the environments of the trainers that usertune is compared with (once)

.peers/%/.installed: envs/peers/%.txt envs/requirements.txt envs/constraints.txt
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

bench-slurm: setup  ## Run the SLURM benchmarks on a cluster started on this machine (needs SLURM); minutes
	$(BIN)/python benchmarks/slurm_study.py
	$(BIN)/python benchmarks/slurm_many_jobs.py

figures: setup  ## Write the stored benchmark results into README.md and docs
	$(BIN)/python benchmarks/write_figures.py

pictures: demo $(VENV)/.test  ## Write the pictures of README.md from the demo's report (needs Chromium)
	$(BIN)/python benchmarks/write_pictures.py

setup: $(VENV)/.installed  ## Create the virtual environment from envs/requirements.txt (once)

$(VENV)/.installed: envs/requirements.txt envs/constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r envs/requirements.txt -c envs/constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed envs/requirements-test.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r envs/requirements-test.txt -c envs/constraints.txt
	@touch $@

clean:  ## Remove results and the demo's screens (not the virtual environment)
	rm -rf results/* demo/dataset .snakemake
	git checkout -- results/README.md
