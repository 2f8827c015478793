# Two commands do everything: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help setup setup-dev demo test lint
help:
	@echo "make demo   cluster handwritten digits without labels, all stages, under 3 minutes"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"

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

test: setup-dev
	$(RUN) -m pytest

lint: setup-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
