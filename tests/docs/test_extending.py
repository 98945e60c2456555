"""docs/extending.md: its code blocks, saved as the page says, train one iteration by the page's own commands."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT
from helpers.engine_contract import RULES
from helpers.models import quick_to_end
from helpers.pages import commands, named_blocks
from helpers.runs import TINY, metrics, run_here

from sdar_pl.cli import main
from sdar_pl.policy import Policy

PAGE = ROOT / "docs" / "extending.md"
FILES = named_blocks(PAGE)


@pytest.fixture
def _saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's files beside configs/, in the working folder, from where ``python -m`` imports."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (Path(name).stem for name in FILES if name.endswith(".py")):
        sys.modules.pop(module, None)


def train(part: str) -> dict[str, float]:
    """One iteration by the page's command that names ``part`` → its row of metrics.csv."""
    (command,) = [words for words in commands(PAGE) if words[0] == "fit" and part in words]
    settings = dict(zip(TINY[::2], TINY[1::2], strict=True))
    settings["--trainer.max_epochs"] = "1"
    del settings["--data.environment.init_args.validation_tasks"]  # the household's
    settings["--data.panel_tasks"] = "4"
    return metrics(run_here(*command, *(word for pair in settings.items() for word in pair)))[-1]


@pytest.mark.usefixtures("_saved")
def test_an_environment() -> None:
    row = train("guess.yaml")
    assert {"val/success/odd", "val/success/even"} < row.keys()
    assert math.isfinite(row["gap/mean"])


@pytest.mark.usefixtures("_saved")
def test_the_environment_keeps_the_contract() -> None:
    for command in [words for words in commands(PAGE) if words[0] == "check-env"]:
        assert main(command) == 0


@pytest.mark.usefixtures("_saved")
def test_faults() -> None:
    assert math.isfinite(train("faulty.yaml")["gap/mean"])


@pytest.mark.usefixtures("_saved")
def test_a_method() -> None:
    row = train("hard_gate.yaml")
    assert 0 < row["gate/mean"] < 1
    assert row["gate/mean"] == pytest.approx(row["gate/active"])  # the gate is 0 or 1


@pytest.mark.usefixtures("_saved")
def test_an_engine() -> None:
    row = train("plain_engine.yaml")
    assert 0 < row["engine/logprob_mismatch"] < 1e-4


@pytest.mark.usefixtures("_saved")
@pytest.mark.parametrize("rule", RULES)
def test_the_engine_keeps_the_contract(make_policy: Callable[..., Policy], rule: str) -> None:
    from plain_engine import PlainEngine

    RULES[rule](PlainEngine(), quick_to_end(make_policy()))


@pytest.mark.usefixtures("_saved")
def test_a_context() -> None:
    assert train("tips.yaml")["gap/mean"] != 0


def test_each_example_is_short() -> None:
    lengths = {name: sum(bool(line.strip()) for line in text.splitlines()) for name, text in FILES.items()}
    assert {name for name in lengths if name.endswith(".py")} == {
        "guess.py",
        "hard_gate.py",
        "plain_engine.py",
        "tips.py",
    }
    assert all(length <= 50 for length in lengths.values()), lengths
