# Two commands do everything: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup setup-dev demo test test-fast test-browser lint
help:
	@echo "make demo           cluster handwritten digits without labels, all stages, under 3 minutes once installed"
	@echo "make test           run all tests"
	@echo "make test-fast      run the quick tests, about a minute"
	@echo "make test-browser   open the report in headless Chromium (on Debian it is installed)"
	@echo "make lint           ruff, mypy and import-linter"

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.txt constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { echo "make needs Python 3.11 with venv (Debian: apt install python3-venv)"; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

demo: setup
	@$(RUN) demo.py

# A process a core; one that is done takes tests from one that waits for processes of its own.
CORES := -n auto --maxprocesses 8 --dist worksteal
test: setup-dev
	$(RUN) -m pytest $(CORES)

# Without tests that start processes or take long.
test-fast: setup-dev
	$(RUN) -m pytest $(CORES) -m 'not slow and not browser and not gpu'

# Chromium and its driver come from Debian; elsewhere install them by hand and set CHROMIUM and CHROMEDRIVER.
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
test-browser: setup-dev
	@test -n "$$CHROMIUM" || command -v chromedriver >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y chromium chromium-driver; }
	$(RUN) -m pytest -m browser

lint: setup-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
