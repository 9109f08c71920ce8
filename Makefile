# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1
JOBS ?= 2

.PHONY: demo test check bench docs format clean

demo: $(READY)  ## train a small network, make it smaller and faster under a contract, print the verdict
	$(BIN)/penjing demo --out runs/demo

test: $(READY)  ## all tests, slow ones too
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

check: $(READY)  ## lint, format, types, one-way rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## measure; results go to benchmarks/results/
	$(BIN)/python -m benchmarks

docs: $(READY)  ## run every example in the documentation
	$(BIN)/python -m pytest -q tests/test_readme.py
	$(BIN)/python -m pytest -q src

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt --no-deps torchvision timm  # models to test with, beside any build of torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,hf,vision,openvino,executorch]'
	touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
