# The habits. Every target makes sure of the one .venv first; CI calls the same targets.
.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow check format claims bench wheel clean
PY := .venv/bin/python
export PYTHONHASHSEED := 0

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv:  ## create or refresh .venv (Python 3.11+, a C++ compiler and make are all it needs)
	@tools/setup_venv.sh

demo: venv  ## the main job: train, binarize, quantize, export and measure on the embedded digits; prints the report's path
	$(PY) -m pennyweight run quickstart --folder runs/demo --fresh

test: venv  ## the tests, in a few minutes
	$(PY) -m pytest -n auto --maxprocesses 4

test-slow: venv  ## the tests `make test` leaves out
	$(PY) -m pytest -m "slow and not claim"

check: venv  ## format, lint, types, architecture; under a minute
	$(PY) -m ruff format --check src tests benchmarks setup.py
	$(PY) -m ruff check src tests benchmarks setup.py
	$(PY) -m mypy
	$(PY) -m pytest tests/test_architecture.py

format: venv  ## let ruff rewrite what it can
	$(PY) -m ruff format src tests benchmarks setup.py
	$(PY) -m ruff check --fix src tests benchmarks setup.py

claims: venv  ## the papers' claims at proxy size, resumable; results land in results/ (PENNYWEIGHT_DATA names the data)
	$(PY) benchmarks/claims.py --save
	$(PY) benchmarks/post_training.py --save
	for script in qnn ptb_lstm lba_training; do $(PY) benchmarks/$$script.py --save || exit 1; done
	$(PY) benchmarks/transformer_models.py quality bert --save

bench: venv  ## every benchmark script, rows saved under results/
	for script in binary_matmul packed_mlp binary_conv lba import_time onnxruntime_int8; do $(PY) benchmarks/$$script.py --save || exit 1; done
	$(PY) benchmarks/binary_mnist.py --save
	$(PY) benchmarks/transformer_models.py decode runtime --save

wheel: venv  ## one py3-none-<platform> wheel and the source archive in dist/
	$(PY) -m build

clean:  ## remove what the targets made, but for .venv and runs/
	rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
