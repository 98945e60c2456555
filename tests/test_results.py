"""The commands of docs/results.md can be run, and its figures' CSVs name their methods as ``compare`` does."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from statistics import fmean

import pytest
from helpers import CONFIGS, ROOT
from helpers.configs import parsed

from sdar_pl.commands.compare import cells_to_run, parse
from sdar_pl.commands.compare_methods import parse_methods

PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m sdar_pl compare (.*)$", PAGE, re.MULTILINE)
TABLES = sorted((ROOT / "docs" / "results").glob("*.csv"))
GAMES = ROOT / "docs" / "results" / "games"  # one row a game, one column a run


def names(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["objective"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_methods_of_a_table(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options, fit_options = parse(shlex.split(command))
    cells = cells_to_run(options, fit_options)
    methods = list(dict.fromkeys(cell.method.name for cell in cells))
    tables = [path.stem for path in TABLES if sorted(methods) == sorted(names(path))]
    assert tables
    # The page describes the rows of collapse.csv in columns of their own.
    assert tables == ["collapse"] or all(f"\n| {method} | {options.seeds} |" in PAGE for method in methods)


@pytest.mark.parametrize("name", sorted({name for path in TABLES for name in names(path) if "(" in name}))
def test_every_method_with_overrides_parses(name: str) -> None:
    (method,) = parse_methods(name, CONFIGS / "quickstart.yaml")
    assert method.name == name
    assert parsed("quickstart.yaml", options=method.arguments)["model"]["objective"]


@pytest.mark.parametrize(("file", "seeds"), [("smollm2.csv", 2), ("alfworld_unseen.csv", 5)])
def test_figures_of_games_are_their_outcomes(file: str, seeds: int) -> None:
    with (GAMES / file).open(newline="", encoding="utf-8") as table:
        games = list(csv.DictReader(table))
    runs = [column for column in games[0] if column != "game"]
    share = {run: 100 * sum(int(game[run]) for game in games) / len(games) for run in runs}
    assert f"{fmean(share[run] for run in runs if run.startswith('before')):.1f} %" in PAGE
    for method in ("grpo", "sdar", "sdar(coefficient=1)+initial"):
        cells = " | ".join(f"{share[f'{method} seed {seed}']:.1f}" for seed in range(seeds))
        assert f"| {cells} |" in PAGE
