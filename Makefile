# make run    sets up .venv and trains FAM and Luna on real text, the quickest way to see everything work
# make test   sets up .venv with the test tools, then lint, types and tests: what continuous integration runs
#
# Every target builds .venv when it is missing and updates it when a requirements file changed. The benchmarks have an
# environment of their own, .venv-bench, as the peers bring packages that the suite must not come to depend on.
#   PYTHON=...       the interpreter to build .venv with (default: the first suitable one found)
#   TORCH_INDEX=...  where to take torch from, for example PyTorch's index of CPU wheels (README, "Install")
#   RUN=..., PYTEST=..., BENCH=...   other arguments for run.py, pytest (default: two processes) and the benchmarks
#   NOTEBOOKS=...    names of notebooks (default: all); REPORT=... other arguments for the report

.PHONY: help setup run test test-slurm test-ray faults lint bench notebooks report chromium lock clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
BENCH_VENV := .venv-bench
BENCH_PY := $(BENCH_VENV)/bin/python
RAY_VENV := .venv-ray
RAY_PY := $(RAY_VENV)/bin/python
RUN ?= -m model=fam,luna task=lra_text
PYTEST ?= -n 2 --dist worksteal
KILLS ?= 200
BENCH ?=
NOTEBOOKS ?=
REPORT ?=
TORCH_INDEX ?=

CHROMIUM := apt-get -o Acquire::http::Timeout=20 update && apt-get install -y --no-install-recommends chromium

SETUP := $(VENV)/.setup
DEV := $(VENV)/.dev
ANALYSIS := $(VENV)/.analysis
PEERS := $(BENCH_VENV)/.setup
RAY := $(RAY_VENV)/.setup

help:
	@echo "make setup   build .venv with what running needs"
	@echo "make run     setup, then: python run.py $(RUN)"
	@echo "make test    setup with the test tools, then lint, types and tests"
	@echo "make test-slurm   sweeps through a real SLURM of one node (as root, with slurm-wlm and munge installed)"
	@echo "make test-ray     build .venv-ray with Ray, then sweeps through it"
	@echo "make faults  setup with the test tools, then the long tests of faults: KILLS=$(KILLS) kills at random moments and more"
	@echo "make chromium     in continuous integration (CI=true, root, apt-get): installs the browser that the report is tested in"
	@echo "make lint    setup with the test tools, then lint and types"
	@echo "make bench   build .venv-bench with the peers, then measure speed and memory into results/benchmarks/"
	@echo "make notebooks    setup with the notebooks' tools, then run them: copies into results/report/notebooks/"
	@echo "make report       the same, then one static site of verdicts, tables, figures and runs: results/report/index.html"
	@echo "make lock    rewrite constraints.txt from the requirements files"
	@echo "make clean   remove the environments and the caches of the tools (results stay)"

setup: $(SETUP)

run: $(SETUP)
	$(PY) run.py $(RUN)

test: lint chromium
	OMP_NUM_THREADS=1 $(PY) -m pytest $(PYTEST)

test-slurm: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slurm tests/launchers

test-ray: $(RAY)
	OMP_NUM_THREADS=1 $(RAY_PY) -m pytest -m ray tests/launchers

faults: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/faults --kills=$(KILLS) --every $(PYTEST)

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m mypy

# The report is tested in a Chromium of the system's own; where there is none these tests are skipped and say so.
chromium:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then \
	  { DEBIAN_FRONTEND=noninteractive timeout 300 sh -c "$(CHROMIUM)"; } >/dev/null 2>&1 \
	    || echo "Chromium could not be installed: the tests of the report in a browser are skipped"; \
	fi

bench: $(PEERS)
	OMP_NUM_THREADS=1 $(BENCH_PY) -m pytest -q tests/experiments/test_peers.py
	$(BENCH_PY) -m benchmarks.variants $(BENCH)
	$(if $(BENCH),,$(BENCH_PY) run.py -m +study=efficiency)
	$(if $(BENCH),,$(BENCH_PY) -m analysis.collect efficiency)
	$(if $(BENCH),,$(BENCH_PY) -m analysis.speed && $(BENCH_PY) -m analysis.efficiency)

notebooks: $(ANALYSIS)
	OMP_NUM_THREADS=1 $(PY) -m analysis.execute $(NOTEBOOKS)

report: $(ANALYSIS)
	OMP_NUM_THREADS=1 $(PY) -m analysis.report $(REPORT)

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(RAY_VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

# ---- the environments

# python3 comes before the named versions: it is the one that the user chose.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python python3.13 python3.12 python3.11)
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

$(PY) $(BENCH_PY) $(RAY_PY):
	@for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c "$(SUITABLE)" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11, 3.12 or 3.13 that can build environments (tried: $(CANDIDATES)):" \
	    "install one, or name it with PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "Building $(@:/bin/python=) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(@:/bin/python=)

# A folder of wheels (PIP_FIND_LINKS) holds the build of torch that fits the machine; with it uv is safe and takes
# seconds instead of minutes. Without one, pip: it alone reads the user's own pip configuration.
# uv separates folders by commas where pip uses spaces. Called with an environment's python and a requirements file.
define install
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  $(1) -m pip install --quiet --no-deps --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' requirements.txt)"; \
	elif [ "$$(uname -s)" = Linux ] && [ -z "$$PIP_FIND_LINKS" ] && ! command -v nvidia-smi >/dev/null \
	  && ! $(1) -c "import torch" 2>/dev/null; then \
	  echo "No NVIDIA GPU found, and the default torch for Linux is a CUDA build of several GB." \
	    "README, \"Install\", tells how to take the small one (TORCH_INDEX=...)."; \
	fi
	@echo "Installing $(2) (minutes, once)"
	@if [ -n "$$PIP_FIND_LINKS" ] && $(1) -m pip install --quiet -c constraints.txt uv \
	  && UV_FIND_LINKS="$$(echo $$PIP_FIND_LINKS | tr ' ' ',')" $(1) -m uv pip install --quiet --python $(1) -r $(2); \
	then :; else $(1) -m pip install --quiet -r $(2); fi
endef

$(SETUP): requirements.txt constraints.txt | $(PY)
	$(call install,$(PY),requirements.txt)
	@touch $@

$(DEV): requirements-dev.txt $(SETUP)
	$(call install,$(PY),requirements-dev.txt)
	@touch $@

$(ANALYSIS): requirements-analysis.txt $(SETUP)
	$(call install,$(PY),requirements-analysis.txt)
	@touch $@

$(PEERS): requirements.txt requirements-bench.txt requirements-bench-nodeps.txt constraints.txt | $(BENCH_PY)
	$(call install,$(BENCH_PY),requirements-bench.txt)
	@$(BENCH_PY) -m pip install --quiet --no-deps -r requirements-bench-nodeps.txt
	@touch $@

$(RAY): requirements-dev.txt requirements-ray.txt | $(RAY_PY)
	$(call install,$(RAY_PY),requirements-dev.txt)
	$(call install,$(RAY_PY),requirements-ray.txt)
	@touch $@

# torch and its CUDA packages stay out: which build fits is for the machine to say, and the wheel pins its own parts.
lock: $(DEV)
	@folder=$$(mktemp -d) && \
	for file in requirements.txt requirements-dev.txt requirements-bench.txt; do \
	  sed '/^-c/d' $$file > $$folder/$$file; \
	done && \
	echo '# Everything beneath the requirements files, for Python 3.11 and later. Written by `make lock`.' > $$folder/lock && \
	$(PY) -m uv pip compile $$folder/requirements-dev.txt $$folder/requirements-bench.txt --universal \
	  --python-version 3.11 --no-header --no-annotate --no-emit-package torch --quiet > $$folder/all && \
	grep -Ev '^(nvidia-|cuda-|triton)' $$folder/all >> $$folder/lock && \
	mv $$folder/lock constraints.txt && rm -r $$folder
