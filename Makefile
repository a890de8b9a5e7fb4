# make help    this list; make alone shows it too
# make setup   a virtual environment with the locked versions
# make run     the default pipeline and its report: results/report.zip
# make test    lint, format, types and tests
# make test-torch  the training data sets, in an environment with PyTorch (gigabytes)
# make test-readers  files of microscopes and slide scanners and N5, in an environment with their readers
# make test-scverse  our tables and shapes in spatialdata-plot and squidpy, in an environment with them
# make test-gpu    the engine cupy on an NVIDIA GPU, its memory checked by compute-sanitizer where
#                  that is installed (CUDA=12 for an older driver)
# make tissue-figure  synthetic tissue beside real sections (HUBMAP=folder of the HuBMAP tile)
# make test-package  the wheel alone, in empty environments on every Python there is (PYTHONS=…)
# make docs        the pages: docs/_build/html, warnings are errors
# make test-faults  every system call of every commit failing in turn, and 50 kills of each stage
# make test-memory  what workers take in every combination of stage, chunks, pixels and engine
# make fuzz    damaged and hostile inputs made by chance, for MINUTES=5: no crash, no hang, below 1 GB
# make peer    Harpy, which the benchmark compares with, and others, in environments of their own:
#              .venv-peer and .venv-others
# make test-filesystems  results on file systems without locks, links, maps, … (FUSE and mfusepy)
# make test-slurm  the workflow on a SLURM of one node, which it starts (as root, slurm-wlm and munge)

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run peer tissue-figure test lint types pytest test-torch test-readers test-scverse test-gpu \
	test-faults test-memory test-filesystems test-slurm fuzz test-package docs format lock clean

VENV := .venv
TORCH_VENV := .venv-torch
READERS_VENV := .venv-readers
SCVERSE_VENV := .venv-scverse
DOCS_VENV := .venv-docs
PEER_VENV := .venv-peer
OTHERS_VENV := .venv-others
CUDA ?= 13
CUDA_VENV := .venv-cuda$(CUDA)
BIN := $(VENV)/bin
CORES ?= all
# Processes of the tests: one more than cores, as a third of their time is spent waiting.
TESTERS ?= $(shell n=$$(($$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 1)); \
	echo $$((n < 4 ? n : 4)))
# The machine's own Python; none is downloaded.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Those of 3.11 to 3.13 that are on this machine.
PYTHONS ?= $(shell for v in 3.11 3.12 3.13; do \
	$(UV) python find --no-project $$v >/dev/null 2>&1 && echo $$v; done)
# Harpy's newest release needs 3.12. Behind pyenv's shims uv finds only the version that is set.
PEER_PYTHON ?= $(shell for v in 3.12 3.13 3.11; do \
	$(UV) python find --no-project $$v 2>/dev/null && break; \
	ls $$(pyenv prefix $$(pyenv latest $$v 2>/dev/null) 2>/dev/null)/bin/python 2>/dev/null && break; done)
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)

# Certificates that the machine trusts, where a proxy stands before the package index.
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# Every stage is a process of its own: without compiled modules each would compile its imports anew
# where Python may not keep them.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

setup: $(VENV)/.ready

run: setup
	$(BIN)/snakemake --cores $(CORES)

# Beside each other: lint and types are one process each.
test: setup
	+$(MAKE) --no-print-directory --jobs lint types pytest

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

types: setup
	$(BIN)/mypy harpy_core

pytest: setup
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

test-torch: $(TORCH_VENV)/.ready
	$(TORCH_VENV)/bin/python -m pytest tests/training/test_loading.py tests/training/test_training.py \
	  tests/embedding/test_torch_modules.py

test-readers: $(READERS_VENV)/.ready
	$(READERS_VENV)/bin/python -m pytest tests/raster/test_microscopes.py tests/raster/test_slides.py \
		tests/raster/test_n5.py

test-scverse: $(SCVERSE_VENV)/.ready
	$(SCVERSE_VENV)/bin/python -m pytest tests/aggregate/test_scverse.py

test-gpu: $(CUDA_VENV)/.ready
	$(CUDA_VENV)/bin/python -m pytest -m gpu
	if command -v compute-sanitizer >/dev/null; then compute-sanitizer --error-exitcode 1 \
		$(CUDA_VENV)/bin/python -m pytest -m gpu tests/kernels/test_kernels.py \
		tests/kernels/test_gpu_decoding.py; fi

test-faults: setup
	$(BIN)/python -m pytest -m faults tests/faults

test-filesystems: setup
	$(UV) pip install --quiet --python $(BIN)/python --target build/filesystems \
		-r envs/filesystems.txt
	PYTHONPATH=$(CURDIR)/build/filesystems $(BIN)/python -m pytest -m filesystems tests/filesystems

test-memory: setup
	$(BIN)/python -m pytest -m memory tests/planning/test_memory.py

fuzz: setup
	$(BIN)/python tests/fuzz/fuzz.py --minutes $(or $(MINUTES),5)

peer: $(PEER_VENV)/.ready $(OTHERS_VENV)/.ready
	$(PEER_VENV)/bin/python -c "import harpy; print('peer_python: $(PEER_VENV)/bin/python')"

test-slurm: setup
	$(BIN)/python -m pytest -m slurm tests/slurm

# The sdist is made from the tree, the wheel from the sdist; no test runs inside the checkout.
test-package: | $(UV)
	rm -rf dist build/package
	$(UV) build --quiet --out-dir dist
	for v in $(PYTHONS); do \
		$(UV) venv --quiet --python $$v build/package/$$v \
			&& $(UV) pip install --quiet --python build/package/$$v dist/*.whl \
			&& work=$$(mktemp -d) && cp tests/package/installed.py $$work \
			&& (cd $$work && $(CURDIR)/build/package/$$v/bin/python -I installed.py $$work) \
			&& rm -rf $$work || exit 1; \
	done

docs: $(DOCS_VENV)/.ready
	rm -rf docs/_build
	PYTHONPATH=$(CURDIR):$(CURDIR)/docs $(DOCS_VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet \
		-b html docs docs/_build/html

tissue-figure: setup
	$(BIN)/python benchmarks/tissue.py docs/synthetic-tissue.png $(if $(HUBMAP),--hubmap $(HUBMAP))

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

lock: | $(UV)
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --extra workflow --extra dev pyproject.toml -o requirements.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --extra docs --constraints requirements.lock pyproject.toml \
		-o docs/requirements.lock

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(READERS_VENV) $(SCVERSE_VENV) $(PEER_VENV) $(OTHERS_VENV) $(DOCS_VENV) docs/_build .venv-cuda* .uv .snakemake build dist *.egg-info

$(VENV)/.ready: requirements.lock pyproject.toml $(BIN)/python | $(UV)
	$(UV) pip sync --python $(BIN)/python requirements.lock
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(TORCH_VENV)/.ready: requirements.lock pyproject.toml $(BIN)/python | $(UV)
	$(BIN)/python -m venv --without-pip $(TORCH_VENV)
	$(UV) pip sync --python $(TORCH_VENV)/bin/python requirements.lock
	$(UV) pip install --python $(TORCH_VENV)/bin/python --no-build-isolation --editable ".[torch]"
	touch $@

$(READERS_VENV)/.ready: requirements.lock pyproject.toml $(BIN)/python | $(UV)
	$(BIN)/python -m venv --without-pip $(READERS_VENV)
	$(UV) pip sync --python $(READERS_VENV)/bin/python requirements.lock
	$(UV) pip install --python $(READERS_VENV)/bin/python --no-build-isolation \
		--editable ".[czi,lif,nd2,slide,n5]"
	touch $@

# With versions of their own: the lock's are not those that both ask for on every Python.
$(SCVERSE_VENV)/.ready: envs/scverse.txt pyproject.toml $(BIN)/python | $(UV)
	$(BIN)/python -m venv --clear --without-pip $(SCVERSE_VENV)
	$(UV) pip install --python $(SCVERSE_VENV)/bin/python -r envs/scverse.txt --editable .
	touch $@

$(DOCS_VENV)/.ready: docs/requirements.lock $(BIN)/python | $(UV)
	$(BIN)/python -m venv --without-pip $(DOCS_VENV)
	$(UV) pip sync --python $(DOCS_VENV)/bin/python docs/requirements.lock
	touch $@

$(PEER_VENV)/.ready: envs/peer.txt | $(UV)
	$(PEER_PYTHON) -m venv --clear --without-pip $(PEER_VENV)
	$(UV) pip install --python $(PEER_VENV)/bin/python -r envs/peer.txt
	touch $@

$(OTHERS_VENV)/.ready: envs/others.txt | $(UV)
	$(PEER_PYTHON) -m venv --clear --without-pip $(OTHERS_VENV)
	$(UV) pip install --python $(OTHERS_VENV)/bin/python -r envs/others.txt
	touch $@

$(CUDA_VENV)/.ready: requirements.lock pyproject.toml $(BIN)/python | $(UV)
	$(BIN)/python -m venv --without-pip $(CUDA_VENV)
	$(UV) pip sync --python $(CUDA_VENV)/bin/python requirements.lock
	$(UV) pip install --python $(CUDA_VENV)/bin/python --no-build-isolation \
		--editable ".[cuda$(CUDA)]"
	touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)

# A folder of its own, so that the environment holds the locked versions and nothing else.
.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m pip --version >/dev/null 2>&1 \
		&& $(PYTHON) -m pip install --quiet --target .uv uv \
		|| { $(PYTHON) -m venv .uv/venv && .uv/venv/bin/python -m pip install --quiet --target .uv uv; }
