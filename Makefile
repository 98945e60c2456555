.PHONY: setup quickstart test lint
VENV ?= .venv

setup:
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev]'

quickstart:
	$(VENV)/bin/python -m sdar_pl fit --config configs/quickstart.yaml

test:
	$(VENV)/bin/python -m pytest

lint:
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
