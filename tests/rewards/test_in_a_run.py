"""data.rewards in a run: what it changes, and that nothing changes without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import CONFIGS
from helpers.builders import an_outcome
from helpers.runs import TINY, fit_here, metrics, run_here, same

from sdar_pl.batch import rows_of
from sdar_pl.objectives import GroupAdvantage
from sdar_pl.rewards import Outcome, PathEfficiency, RewardSum, shape_rewards
from sdar_pl.runtime.run_fingerprint import attributes_of
from sdar_pl.sampling.dynamic_sampling import equal_groups
from sdar_pl.scoring import set_advantages
from sdar_pl.types import Episode, Observation

GRPO = ["--config", str(CONFIGS / "objectives" / "grpo.yaml")]


def a_group() -> list[Episode]:
    """Four episodes of equal reward, of one and two turns."""
    group = [an_outcome(0, index, 1.0) for index in range(4)]
    for episode in group:
        for turn in episode.turns[:-1]:
            turn.observation = Observation("")
    return group


def test_the_advantage_is_of_the_training_reward() -> None:
    """Equal rewards have no advantage; with the bonus, the shorter successes have one above 0."""
    episodes = a_group()
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, "conversation")]
    set_advantages(rows, episodes, GroupAdvantage())
    assert {row.advantages[0] for row in rows} == {0.0}
    assert equal_groups(episodes) == [True]
    shape_rewards(RewardSum([Outcome(), PathEfficiency(max_steps=12)]), episodes)
    set_advantages(rows, episodes, GroupAdvantage())
    for row in rows:
        assert (row.advantages[0] > 0) == (len(episodes[row.episode].turns) == 1)
        assert len(set(row.advantages)) == 1
    assert equal_groups(episodes) == [False], "dynamic sampling keeps the group"
    assert {episode.reward for episode in episodes} == {1.0}, "the environment's reward stays"


def test_a_run_s_settings_name_every_part() -> None:
    rewards = RewardSum([Outcome(), PathEfficiency(max_steps=12)])
    settings = attributes_of({"data.rewards": rewards})
    assert settings["data.rewards.parts.1"] == "PathEfficiency"
    assert settings["data.rewards.parts.1.max_steps"] == 12
    assert attributes_of({"data.rewards": None}) == {"data.rewards": None}


@pytest.mark.slow
def test_the_outcome_alone_changes_no_bit(tmp_path: Path) -> None:
    plain = fit_here(tmp_path / "plain", *GRPO)
    outcome = fit_here(tmp_path / "outcome", *GRPO, "--data.rewards", "Outcome")
    same(plain, outcome)


@pytest.mark.slow
def test_toolcua_s_recipe_runs(tmp_path: Path) -> None:
    recipe = ["fit", "--config", str(CONFIGS / "companions" / "toolcua_household.yaml"), *TINY]
    options = ["--model.policy.model", "tiny-household", "--trainer.default_root_dir", str(tmp_path), "--run", "run"]
    run = run_here(*recipe, *options, "--trainer.max_epochs", "1")
    last = metrics(run)[-1]
    played = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    trained = [line for line in played if line["split"] == "train"]
    for part in ("outcome", "tools", "path"):
        mean = sum(line["parts"][part] for line in trained) / len(trained)
        assert last[f"reward/{part}"] == pytest.approx(mean, abs=1e-6)
    assert all(line["parts"] == {} for line in played if line["split"] == "validation")


def test_rewards_of_single_turns_are_the_environment_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gigpo = ["--config", str(CONFIGS / "objectives" / "gigpo.yaml"), "--data.prompter.history", "windowed"]
    fit_here(tmp_path, *gigpo, "--data.rewards", "Outcome", status=2)
    assert "error: data.rewards: this advantage compares the environment's rewards" in capsys.readouterr().err


def test_a_reward_that_does_not_fit_the_environment_ends_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.rewards", "ToolUse", "--data.rewards.action", "fetch ", "--data.rewards.kinds", "[fly]"]
    fit_here(tmp_path, *GRPO, *options, status=2)
    assert "error: data.rewards.kinds: fly; must be among" in capsys.readouterr().err
