.PHONY: setup quickstart test slow soak lint site
VENV ?= .venv

setup:
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev,docs]'

quickstart:
	$(VENV)/bin/python -m sdar_pl fit --config configs/quickstart.yaml

test:
	$(VENV)/bin/python -m pytest -n auto

slow:
	$(VENV)/bin/python -m pytest -n auto -m "slow and not gpu"

soak:
	$(VENV)/bin/python scripts/soak.py

lint:
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

site:
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
