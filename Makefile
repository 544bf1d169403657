# make demo    run the embedded demo           make check   format, lint, types, docstrings, tests
# make test    run the tests                   make slow    the tests that take long
# make lowest  run the tests on the lowest versions that pyproject.toml states
# make bench   compare the speed with an earlier revision: make bench BASE=v0.1.0
# make hooks   run `make check` before each commit
# make audit   look for known holes in the tested versions, and write a bill of materials (needs a network)
# make docs    build the documentation into build/site   make notebooks   run the tutorials anew
# make recording   record the page of the running demo for README.md (needs Chromium)

PYTHON ?= python3
VENV ?= .venv
LOWEST ?= build/lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lowest slow lint check format bench hooks docs notebooks recording audit clean

demo: $(VENV)/.demo
	$(BIN)/fedhello run

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# In an environment of its own; the test left out compares the installed packages with constraints.txt.
lowest: $(LOWEST)/.test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto --dist loadfile -m "not slow" \
		--deselect tests/faults/test_63_dependencies.py::test_constraints_cover_whatever_make_installs

slow: $(VENV)/.docs
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# CPU seconds of both, in turn; fails if a case is a tenth slower.
bench: $(VENV)/.demo
	$(BIN)/python benchmarks/guard.py --base $(BASE)

hooks:
	git config core.hooksPath .githooks

# Every warning is an error, such as a link that leads nowhere.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs build/site

notebooks: $(VENV)/.docs
	HF_HUB_OFFLINE=1 $(BIN)/python docs/execute.py

recording: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python docs/record.py

# Both read the versions in constraints.txt. The index of known holes must be reachable: with --strict a package that
# it does not know is an error, not a pass.
audit: $(VENV)/bin/python
	$(PIP) pip-audit cyclonedx-bom
	mkdir -p build
	$(BIN)/cyclonedx-py requirements constraints.txt --output-file build/sbom.json
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf $(VENV) build dist src/*.egg-info

# One environment for all; each stamp adds what its targets need, and is renewed when the requirements change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo,report]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo,report,test]'
	touch $@

# flwr brings uv along. What is not named in pyproject.toml is as new as may be.
$(LOWEST)/.test: pyproject.toml | $(VENV)/.test
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--requirements pyproject.toml --extra demo --extra report --extra test
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo,report,test,docs]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo,report,test,dev]'
	touch $@
