# Everything a developer needs; each target makes its own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Threads that wait must not spin: the tests run in as many processes as there are cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install demo test test-slow check docs format licenses audit clean

$(INSTALLED): setup.py constraints.txt tools/dev.lock mbrec/version.py
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	# Every file has to have the hash that the lock gives (Python 3.11 on x86-64 Linux).
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement tools/dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
endif
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

# The pages as a site, in build/site. The variable hides a notice of the theme's makers.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every installed distribution with its license; fails on one that is not allowed.
licenses: $(INSTALLED)
	$(BIN)/python tools/licenses.py

# Known vulnerabilities of all that is pinned. pip-audit has an environment of its own, so that what
# it needs does not get between mbrec and its dependencies. Exit code 3: the database was not reached.
AUDIT := $(VENV)-audit
AUDIT_OPTIONS ?=

$(AUDIT)/.installed: tools/audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --no-deps --require-hashes --requirement tools/audit.lock
	touch $(AUDIT)/.installed

audit: $(AUDIT)/.installed
	$(AUDIT)/bin/python tools/audit.py $(AUDIT_OPTIONS) constraints.txt docker/locks/*.lock

clean:
	rm -rf build dist demo-out $(VENV) $(VENV)-audit
