# Everything a fresh machine needs: Python 3.11 to 3.13, pip, gcc, make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

RUN ?= runs/eresfd_samples

.PHONY: env train demo test check lock clean

env: $(VENV)/.installed  ## the environment, from the lock file, and the compiled parts

$(VENV)/.installed: requirements.lock lib/evaluation/matching_compiled.pyx lib/geometry/suppression_compiled.pyx tools/ap_eval/setup.py
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	cd tools/ap_eval && $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	touch $@

train: env  ## pretrain, prune, fine-tune and measure on the built-in samples; ends with a table
	$(BIN)/python pruned_train.py

demo: env  ## what the detector of `make train`, or of RUN=..., finds in the built-in scenes, as a picture
	$(BIN)/python tools/demo.py --model $(RUN)

test: env  ## all tests: the fast ones, then the slow ones
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m slow --numprocesses auto --maxprocesses 2

check: env  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:  ## new versions into the lock file, within the ranges of pyproject.toml (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --no-annotate --no-header --no-emit-index-url --output-file requirements.lock

clean:  ## everything made here but runs and data
	rm -rf $(VENV) tools/ap_eval/build lib/evaluation/*.so lib/geometry/*.so .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
