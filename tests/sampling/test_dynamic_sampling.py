"""Dynamic sampling: which groups give way, to which tasks, and what happens where none teaches anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from helpers.runs import ROOT, fit_here, metrics, weights

from sdar_pl.cli import main
from sdar_pl.sampling.dynamic_sampling import Rollout, roll_out
from sdar_pl.sampling.tasks import draw, refill_order, task_order
from sdar_pl.types import Episode, Observation, Task, Turn

DAPO = ["--config", str(ROOT / "configs" / "objectives" / "dapo.yaml")]


def episode(name: str, group: int, index: int, reward: float | None) -> Episode:
    """None: one that failed."""
    played = Episode(Task(name, "k", ""), group, index, Observation(""))
    played.turns = [Turn([1], [2], [0.0], "", "", True, Observation("", reward=reward or 0.0))]
    played.failed = "boom" if reward is None else ""
    return played


class Script:
    """Rewards of each place, round by round; notes what was asked for."""

    def __init__(self, *rounds: dict[int, list[float | None]]) -> None:
        self.rounds, self.asked = rounds, list[tuple[int, list[int]]]()

    def __call__(self, number: int, places: Sequence[int]) -> list[Episode]:
        self.asked.append((number, list(places)))
        return [
            episode(f"{number}/{place}", place, index, reward)
            for place in places
            for index, reward in enumerate(self.rounds[number][place])
        ]


def names(episodes: list[Episode]) -> list[str]:
    return [played.task.id for played in episodes]


def test_groups_of_equal_rewards_give_way() -> None:
    script = Script(
        {0: [1, 0], 2: [1, 1], 4: [0, 0], 6: [0, 0.5]},
        {2: [0, 1], 4: [0, 0]},
        {4: [0.5, 0.5]},
        {4: [0, 1]},
    )
    found = roll_out(script, range(0, 8, 2), 2)
    assert script.asked == [(0, [0, 2, 4, 6]), (1, [2, 4]), (2, [4])]
    assert names(found.episodes) == ["0/0", "0/0", "1/2", "1/2", "0/6", "0/6"]
    assert [played.group for played in found.episodes] == [0, 0, 2, 2, 6, 6], "in the order of places, not of rounds"
    assert names(found.dropped) == ["0/2", "0/2", "0/4", "0/4", "1/4", "1/4", "2/4", "2/4"]
    assert (found.dropped_groups, found.refills) == (4, 3)


def test_no_round_more_than_needed() -> None:
    script = Script({0: [1, 0], 1: [0, 0]}, {1: [1, 0]})
    found = roll_out(script, [0, 1], 5)
    assert len(script.asked) == 2
    assert len(found.episodes) == 4


def test_without_refills_every_group_is_taken() -> None:
    script = Script({0: [1, 1], 1: [0, None]})
    found = roll_out(script, [0, 1], 0)
    assert names(found.episodes) == ["0/0", "0/0", "0/1"]
    assert names(found.failed) == ["0/1"]
    assert (found.dropped, found.dropped_groups, found.refills) == ([], 0, 0)
    assert roll_out(script, [], 0) == Rollout(), "a rank without groups"


def test_failed_episodes_do_not_count() -> None:
    script = Script({0: [1, None], 1: [None, None]}, {0: [0, 1], 1: [0, 1]})
    found = roll_out(script, [0, 1], 1)
    assert names(found.episodes) == ["1/0", "1/0", "1/1", "1/1"]
    assert names(found.dropped) == ["0/0"]
    assert len(found.failed) == 3
    assert found.dropped_groups == found.refills == 2


@pytest.mark.parametrize(("refills", "size"), [("-1", "8"), ("1", "1")])
def test_bad_options(refills: str, size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.max_refills", refills, "--data.group_size", size]
    arguments = ["fit", "--config", str(CONFIGS / "quickstart.yaml"), *options]
    assert main([*arguments, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert "data.max_refills" in capsys.readouterr().err


# ---------------------------------------------------------------------- tasks


def test_the_split_is_gone_through_whatever_is_refilled() -> None:
    played = [task for epoch in range(5) for task in draw(20, epoch, 4, seed=3)[0]]
    assert sorted(played) == list(range(20))
    assert draw(20, 2, 4, seed=3) == (task_order(20, 2, 4, 3), (3, 0, 2))


def test_refills_are_other_tasks_and_never_the_same_twice() -> None:
    own = task_order(20, 1, 4, seed=3)
    rounds = [refill_order(20, 1, 4, 3, number) for number in range(1, 5)]
    drawn = [task for tasks in rounds for task in tasks]
    assert sorted([*own, *drawn]) == list(range(20))
    assert refill_order(20, 1, 4, 3, 5) == rounds[0], "all were played: they come again"
    assert rounds != [refill_order(20, 2, 4, 3, number) for number in range(1, 5)]
    assert rounds != [refill_order(20, 1, 4, 4, number) for number in range(1, 5)]
    streams = {draw(20, 1, 4, 3, number)[1] for number in range(5)}
    assert len(streams) == 5


def test_a_split_of_one_iteration_plays_its_own_tasks_again() -> None:
    assert sorted(refill_order(4, 0, 4, 0, 1)) == [0, 1, 2, 3]


# ---------------------------------------------------------------------- whole runs


def test_a_run_without_anything_to_learn_goes_on_and_stands_still(tmp_path: Path) -> None:
    """One turn is too short for any success: all rewards are 0. Weight decay would move the weights all the same."""
    options = [
        *DAPO,
        "--data.play.max_turns",
        "1",
        "--data.play.invalid_penalty",
        "0",
        "--data.steps_per_iteration",
        "2",
    ]
    decay = ["--model.optimizer.init_args.weight_decay", "0.5"]
    with pytest.warns(UserWarning, match="nothing to learn from"):
        run = fit_here(tmp_path, *options, *decay, "--trainer.max_epochs", "3")
    rows = metrics(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all((row["rollout/dropped_groups"], row["rollout/refills"]) == (8, 6) for row in rows[1:])
    assert all(row["train/success"] == 0 and "loss/total" not in row for row in rows[1:])
    early = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, early[name]) for name, tensor in weights(run).items())
    assert all((tensor == 0).all() for name, tensor in weights(run).items() if "lora_B" in name)
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert sum(line["split"] == "train" for line in lines) == 3 * 2 * 4 * 4, "what was dropped is logged, too"


@pytest.mark.slow
def test_refilled_iterations_resume_exactly(tmp_path: Path) -> None:
    options = [*DAPO, "--data.play.max_turns", "6", "--data.steps_per_iteration", "2"]
    whole = fit_here(tmp_path / "whole", *options, "--trainer.max_epochs", "3")
    assert sum(row.get("rollout/refills", 0) for row in metrics(whole)) > 0
    assert any(row.get("rollout/refills", 0) < row.get("rollout/dropped_groups", 0) for row in metrics(whole))
    fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
