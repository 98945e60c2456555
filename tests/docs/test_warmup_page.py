"""docs/warmup.md: its files and commands, run in its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT
from helpers.pages import commands, named_blocks
from helpers.runs import TINY, metrics, run_here

from sdar_pl.cli import main

PAGE = ROOT / "docs" / "warmup.md"
SMALL = ["--trainer.max_epochs", "1", "--data.tasks_per_iteration", "8", "--data.steps_per_iteration", "2"]


@pytest.mark.slow
def test_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in named_blocks(PAGE).items():
        (tmp_path / name).write_text(text)
    (conversations,) = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "chats.jsonl").write_text(conversations)
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    chats, expert, export, fit, packaged = commands(PAGE)
    assert metrics(run_here(*chats, "--trainer.max_epochs", "2"))[-1]["loss/total"] > 0
    assert (
        metrics(run_here(*expert, *SMALL, "--data.environment.init_args.validation_tasks", "6"))[0]["val/success"] >= 0
    )
    assert main(export) == 0
    assert len(metrics(run_here(*fit, *TINY))) == 3
    assert (ROOT / packaged[-1]).is_file()
