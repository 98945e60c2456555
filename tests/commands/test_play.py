"""``play``: an episode in the terminal, by the policy or by hand."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS
from helpers.models import make_tokenizer
from helpers.runs import fit_here
from rich.console import Console

from sdar_pl.cli import main
from sdar_pl.reports.transcript import Transcript, coloured, figures, pieces, style_of
from sdar_pl.runtime.processes import RUN_FOLDER
from sdar_pl.types import Episode, Observation, Task, Turn

QUICK = ["play", "--config", str(CONFIGS / "quickstart.yaml"), "--data.evaluation.max_new_tokens", "12"]
GAP = re.compile(r"^    gap: mean ([+-]\d\.\d{3}), (\d+) of (\d+) tokens rejected", re.M)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", RUN_FOLDER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def played(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main([*QUICK, *more]) == 0
    assert os.listdir() == [], "nothing is written"
    return capsys.readouterr().out


def typing(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


# ---------------------------------------------------------------------- the policy plays


def test_the_tiny_policy_plays(capsys: pytest.CaptureFixture[str]) -> None:
    out = played(capsys, "--kind", "look_at_obj_in_light", "--task", "1", "--data.play.max_turns", "3")
    lines = out.splitlines()
    assert lines[0].startswith("task     7 (household/validation/7), look_at_obj_in_light: ")
    assert lines[1:3] == ["student  tiny-household, temperature 0.4", "teacher  Initial, reads:"]
    assert "Useful skills for this task:" in lines[3]
    assert len(GAP.findall(out)) == 3
    assert any(int(rejected) for _, rejected, _ in GAP.findall(out)), "the skills change what is likely"
    assert re.fullmatch(r"end      no success · reward 0\.00 · 3 turns", lines[-1])
    assert "\x1b" not in out
    assert out == played(capsys, "--task", "7", "--data.play.max_turns", "3"), "a task has its own random stream"


def test_a_player_that_reads_the_skills_has_no_gap(capsys: pytest.CaptureFixture[str]) -> None:
    out = played(capsys, "--skills", "--task", "7", "--data.play.max_turns", "2")
    assert "student  tiny-household, temperature 0.4, reads the privileged context" in out
    assert [float(mean) for mean, _, _ in GAP.findall(out)] == [0.0, 0.0]  # untrained: the teacher is the student


def test_hindsight_is_shown_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    part = ["--data.context", "sdar_pl.skills.hindsight.Hindsight", "--model.teacher", "sdar_pl.teachers.Current"]
    out = played(capsys, *part, "--data.play.max_turns", "2", "--data.prompter.history", "windowed")
    before, _, after = out.partition("hindsight")
    assert not GAP.search(before), "the teacher reads nothing else than the student while the episode is played"
    assert "Hindsight: this attempt does not succeed; it ends after 2 turns." in after
    assert len(GAP.findall(after)) == 2


@pytest.mark.slow
def test_a_checkpoint_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    run = fit_here(tmp_path / "runs", "--trainer.max_epochs", "1", "--model.optimizer.init_args.lr", "0.05")
    capsys.readouterr()
    outputs = []
    for more in ([], ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")], ["--ckpt_path", "last", "--run", "run"]):
        assert main([*QUICK, "--skills", "--task", "7", "--data.play.max_turns", "2", *more]) == 0
        assert not [str(one.message) for one in recwarn if "ckpt_path" in str(one.message)], "of Lightning's callbacks"
        outputs.append(capsys.readouterr().out)
        os.environ.pop(RUN_FOLDER, None)
    untrained, trained, last = outputs
    assert untrained != trained == last
    assert any(float(mean) for mean, _, _ in GAP.findall(trained)), "the teacher has the initial weights"
    of_run = ["--config", str(run / "config.yaml")]
    assert main(["play", *of_run, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    assert main(["plan", *of_run]) == main(["serve", *of_run]) == 0, "they read a run's configuration, too"
    assert main([*QUICK, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--model.policy.lora.r", "8"]) == 2
    assert "model.policy.lora: the checkpoint has" in capsys.readouterr().err


# ---------------------------------------------------------------------- you play


def test_a_human_plays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, "look", "", "fly to the moon", "<action>inventory</action>")
    # No model is looked for.
    out = played(capsys, "--human", "--task", "3", "--model.policy.model", "Qwen/Qwen2.5-3B-Instruct")
    assert out.count("You are not carrying anything.") == 1
    assert "Nothing happens." in out
    assert " · inventory" in out or "inventory · " in out, "an empty line lists the actions"
    assert out.endswith("end      no success · reward 0.00 · 3 turns\n")


def test_a_human_wins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sdar_pl.environments.household import Household

    world = Household(size="tiny", validation_tasks=96)
    plan = world.expert_plan(world.tasks("validation")[3])
    typing(monkeypatch, *plan, "not read any more")
    out = played(capsys, "--human", "--task", "3", "--skills")
    assert "Useful skills for this task:" in out
    assert out.endswith(f"end      success · reward 10.00 · {len(plan)} turns\n")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["search_qa/sdar.yaml", "webshop/sdar.yaml"])
def test_a_human_plays_every_environment(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "search_qa/sdar.yaml": ["--data.environment.questions=fiction", "--data.environment.retriever=null"],
        "webshop/sdar.yaml": ["--data.environment.products=synthetic"],
    }[recipe]
    typing(monkeypatch, "<search>red shoes</search>" if "search" in recipe else "search[red shoes]")
    assert main(["play", "--config", str(CONFIGS / recipe), *own, "--human", "--task", "0"]) == 0
    out = capsys.readouterr().out
    assert "<information>" in out or "Page 1" in out
    assert out.endswith("1 turn\n")


# ---------------------------------------------------------------------- the transcript


def test_colours_are_by_the_gap() -> None:
    assert not style_of(0.0004)
    assert not style_of(-0.0004)
    weak, strong, rejected = style_of(0.01), style_of(3.0), style_of(-0.6)
    assert weak.bgcolor != strong.bgcolor
    assert strong.bgcolor != rejected.bgcolor
    assert rejected.underline
    assert not strong.underline


def test_tokens_that_share_a_character_are_one_piece() -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer.encode("go 💥", add_special_tokens=False)
    assert len(tokens) > len("".join(text for _, text in pieces(tokens, tokenizer.decode)))
    assert "".join(text for _, text in pieces(tokens, tokenizer.decode)) == "go 💥"
    half = tokens[:-1]  # ends within a character
    assert "".join(text for _, text in pieces(half, tokenizer.decode)).startswith("go ")
    text = coloured(tokens, [0.0] * (len(tokens) - 4) + [-2.0, 0.0, 0.0, 0.0], tokenizer.decode)
    assert text.plain == "go 💥"
    assert [text.plain[span.start : span.end] for span in text.spans] == ["💥"]


def test_hostile_texts_are_escaped(make_policy: Callable[..., Any]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", soft_wrap=True)
    evil = "\x1b[2Jgone\x07 [bold red]x[/] \u202e"
    transcript = Transcript(console, lambda tokens: evil, lambda episode: [-1.0])
    seen = Observation(evil, done=True)
    episode = Episode(Task("t", "k", evil), 0, 0, seen)
    transcript.line("task", episode.task.text)
    transcript(episode)
    episode.turns.append(Turn([1], [5], [-0.1], evil, evil, False, seen))
    transcript(episode)
    transcript.outcome(episode)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[2J" not in written
    assert "\x07" not in written
    assert "\u202e" not in written
    assert written.count("[bold red]x[/]") >= 5, "markup of others is text"


def test_figures() -> None:
    names = {1: "go", 2: " to", 3: " bed"}
    decode: Callable[[list[int]], str] = lambda tokens: "".join(names[token] for token in tokens)  # noqa: E731
    assert figures([1, 2, 3], [0.5, -0.25, 0.0], decode) == (
        "gap: mean +0.083, 1 of 3 tokens rejected, lowest -0.250 at ' to'"
    )
    assert figures([1], [0.5], decode) == "gap: mean +0.500, 0 of 1 tokens rejected"
