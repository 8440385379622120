# Everything a developer needs; each target makes its own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Threads that wait must not spin: the tests run in as many processes as there are cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install demo test test-slow check format clean

$(INSTALLED): setup.py constraints.txt mbrec/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/mbrec demo --out demo-out --force

test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	# mypy knows nothing of the mapping in setup.py: show it the three packages as installed.
	rm -rf build/types && mkdir -p build/types/mbrec
	ln -s $(CURDIR)/mbrec/* $(CURDIR)/cli $(CURDIR)/data_prep build/types/mbrec/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p mbrec

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist demo-out $(VENV)
