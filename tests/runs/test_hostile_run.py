"""Runs of an environment whose kinds, ids, goals, observations and errors are hostile: what the commands really print
and write."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CONFIGS
from helpers.hostile import CONTROLS, NASTY
from helpers.runs import ENVIRONMENT, TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

pytestmark = pytest.mark.slow
WORLD = ["--data.environment.class_path", "helpers.hostile.Hostile"]


def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """A command in a process of its own → (status, all that it printed)."""
    done = subprocess.run(
        [sys.executable, "-m", "sdar_pl", *arguments],
        env={**ENVIRONMENT, **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
    )
    return done.returncode, done.stdout.decode("utf-8")


def clean(output: str) -> bool:
    return not {*output} & {*CONTROLS, "\u202e", "\u2028"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A fit → (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("hostile")
    options = ["fit", "--config", str(CONFIGS / "quickstart.yaml"), *TINY, *WORLD, "--run", "run"]
    options += ["--data.play.max_failed", "1"]
    options += ["--data.tasks_per_iteration", "12", "--data.group_size", "2", "--trainer.max_epochs", "1"]
    options += ["--data.prompter.max_prompt_tokens", "2048", "--data.play.retries", "0"]
    status, output = run(folder, *options, "--trainer.default_root_dir", str(folder), COLUMNS="300")
    assert status == 0, output[-4000:]
    return folder / "run", output


def test_nothing_that_is_printed_controls_the_terminal(fitted: tuple[Path, str]) -> None:
    _, output = fitted
    assert clean(output)
    assert "warning: task household/train/1 \\x1b[2J\\x1b]0;owned\\x07 [bold red]x[/] [/nothing] # heading" in output
    assert "\\x07 [bold red]x[/]" in output.split("Success on the panel")[1], "markup in kinds is shown as it is"
    assert max(map(len, output.splitlines())) < 5000


def test_an_evaluation_on_a_terminal(fitted: tuple[Path, str]) -> None:
    """With colours, as on a terminal: the only escapes are those of the table and the live line."""
    folder, _ = fitted
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    options = ["validate", "--config", str(folder / "config.yaml"), "--ckpt_path", checkpoint]
    status, output = run(folder, *options, FORCE_COLOR="1", COLUMNS="300")
    assert status == 0, output[-4000:]
    assert "\\x1b[2J\\x1b]0;owned\\x07 [bold red]x[/]" in output
    assert not [control for control in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\0", "\u202e") if control in output]


def test_the_log_can_be_read_and_says_what_it_cuts(fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    path = folder / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert all(line["kind"].endswith(f" {NASTY}") for line in lines)
    assert any(NASTY in line["failed"] for line in lines)
    long = [turn["observation"] for line in lines for turn in line["turns"] if "[cut" in turn["observation"]]
    assert long
    assert all(text.endswith("characters in all]") and len(text) < 101_000 for text in long)
    assert path.stat().st_size < 10_000_000


def test_metrics_keep_their_lines_and_names(fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    head, *rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    names = next(csv.reader([head]))
    kinds = [name for name in names if name.startswith("val/success/")]
    assert kinds
    assert all(name.count("/") == 2 and name.isprintable() and "," not in name for name in kinds)
    assert any("%1B%5B2J" in name for name in kinds)


def test_tensorboard_shows_text_as_text(fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("episode/")]
    assert tags
    for tag in tags:
        text = events.Tensors(tag)[0].tensor_proto.string_val[0]
        assert len(text) < 100_000
        html = markdown_to_safe_html(text)
        assert html.startswith("<pre><code>")
        assert html.count("<pre>") == html.count("</pre>") == 1
        assert html.rstrip().endswith("</code></pre>")
        assert not [element for element in ("<img", "<h1", "<script", "<a ", "<p>") if element in html]


def test_check_env_shows_errors_on_one_line(tmp_path: Path) -> None:
    status, output = run(tmp_path, "check-env", "helpers.hostile.Hostile", "--episodes", "3")
    assert status == 1
    assert clean(output)
    assert "\\x1b[2J" in output


def test_an_unexpected_error_is_escaped_too(tmp_path: Path) -> None:
    options = ["fit", "--config", str(CONFIGS / "quickstart.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    status, output = run(tmp_path, *options, "--data.environment.class_path", "helpers.hostile.Unreadable")
    assert status not in (0, 2)
    assert clean(output)
    assert "RuntimeError" in output
    assert "\\x1b[2J" in output
