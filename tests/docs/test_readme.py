"""README and docs: commands can be pasted."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.pages import commands
from helpers.runs import ENVIRONMENT, metrics

from sdar_pl.cli import main

#: files that a page tells the reader to make first
MADE = ("guess.yaml", "hard_gate.yaml", "plain_engine.yaml", "tips.yaml", "faulty.yaml", "runs/")
#: pages whose commands are whole; the others have some with a gap
PASTED = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("configuration", "extending", "troubleshooting")),
]
COMMANDS = sorted(
    {tuple(words) for page in PASTED for words in commands(page) if words and words[0] in ("fit", "validate", "test")}
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_parses(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if "…" in " ".join(words) or "NAME" in " ".join(words):
        pytest.fail("a command with a gap cannot be pasted")
    if any(word.startswith(MADE) for word in words):
        return  # test_extending.py, or a run that is not there yet
    monkeypatch.chdir(ROOT)
    if "--ckpt_path" in words:
        at = words.index("--ckpt_path")
        words = (*words[:at], *words[at + 2 :])
    with pytest.raises(SystemExit) as end:
        main([*words, *([] if any("help" in word for word in words) else ["--print_config"])])
    assert end.value.code == 0


def figures_of(file: str, method: str) -> dict[str, str]:
    """The row of a method in a table of docs/results."""
    with (ROOT / "docs" / "results" / file).open(encoding="utf-8") as table:
        (row,) = [row for row in csv.DictReader(table) if row["objective"] == method]
    return row


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ("household, 96 games", "methods.csv"),
        ("household, 96 games of two kinds that training does not have", "held_out.csv"),
        ("synthetic WebShop, 96 goals", "webshop.csv"),
        ("fictional Search-QA, 160 questions", "search_qa.csv"),
        ("ALFWorld's own games, 140 of valid_seen (16 iterations)", "alfworld.csv"),
    ],
)
def test_the_table_s_figures_are_those_of_the_results(environment: str, file: str) -> None:
    grpo, ours = figures_of(file, "grpo"), figures_of(file, "sdar(coefficient=1)+initial")
    shares = (ours["before"], grpo["after"], ours["after"])
    low, high = (f"{100 * float(ours[name]):+.1f}" for name in ("difference_low", "difference_high"))
    change = f"{100 * float(ours['difference']):+.1f} ({low} to {high})".replace("-", "−")
    line = " | ".join([environment, *(f"{100 * float(share):.1f}" for share in shares), change])
    assert f"| {line} |" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_readme_s_python_trains_and_goes_on(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 10
    on = code.replace("max_epochs=2", "max_epochs=3").replace(
        "fit(module, data)", "fit(module, data, ckpt_path='runs/from-python/checkpoints/last.ckpt')"
    )
    run = tmp_path / "runs" / "from-python"
    for program, steps in ((code, [0, 1, 2]), (on, [0, 1, 2, 3])):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert [row["step"] for row in metrics(run)] == steps
    assert metrics(run)[-1]["gap/mean"] != 0
    for name in ("report.html", "episodes.jsonl", "checkpoints/best.ckpt", "adapter/adapter_config.json"):
        assert (run / name).is_file(), name
