"""Reflections: notes of the policy about judged episodes, bounded, and the same on every rank and after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from helpers.builders import an_outcome
from helpers.runs import fit_here, same

from sdar_pl.skills.reflections import Reflections
from sdar_pl.types import Episode, Task

MUG = Task("a", "heat", "put a hot mug in shelf")


def test_notes_of_the_task_come_first_then_those_of_like_goals() -> None:
    context = Reflections(show=2)
    assert context.provide(MUG) == ""
    for task in (
        Task("b", "heat", "put a hot potato in fridge"),
        Task("c", "heat", "put a hot mug in cabinet"),
        Task("d", "cool", "put a hot mug in shelf"),
        MUG,
    ):
        context.learn(task, f"note of {task.id}")
    assert context.provide(MUG) == "Notes from earlier attempts:\n- note of a\n- note of c"
    assert context.provide(Task("e", "cool", "cool some egg")) == "Notes from earlier attempts:\n- note of d"


def test_notes_are_bounded() -> None:
    """In number for each kind, in characters, and to one line; an empty one and a repetition are none."""
    context = Reflections(show=9, keep=3, most=10)
    for number in range(5):
        context.learn(MUG, f"  {number}\n\n look   around the room ")
    context.learn(MUG, " \n")
    context.learn(MUG, "4 look around")
    assert context.provide(MUG).splitlines()[1:] == ["- 4 look aro", "- 3 look aro", "- 2 look aro"]


def test_the_state_is_plain_and_restored() -> None:
    context, other = Reflections(), Reflections()
    context.learn(MUG, "heat it first")
    other.load_state_dict(context.state_dict())
    assert other.provide(MUG) == context.provide(MUG) != ""
    other.load_state_dict(Reflections().state_dict())
    assert other.provide(MUG) == ""


def judged(group: int, index: int) -> Episode:
    episode = an_outcome(group, index, float(index))
    episode.parts = {"search": 0.5, "answer": 1.0}
    return episode


def test_one_episode_of_each_of_the_first_groups_is_asked_about() -> None:
    context = Reflections(groups=2, most=20)
    episodes = [judged(group, index) for group in range(3) for index in range(4)]
    chosen = context.chosen(episodes)
    assert [episode.group for episode in chosen] == [0, 1]
    # The choice depends on the group alone: a rank that has group 1 only chooses the same.
    assert context.chosen([e for e in episodes if e.group == 1]) == chosen[1:]
    episode = chosen[0]
    episode.turns[-1].action = "x" * 100 + "take mug"
    asked = context.question(episode)
    assert "search: 0.50 answer: 1.00" in asked
    assert ("It succeeded." if episode.success else "It did not succeed.") in asked
    assert "take mug" in asked
    assert "x" * 21 not in asked


@pytest.mark.slow
def test_a_run_writes_notes_reads_them_and_resumes_with_them(tmp_path: Path) -> None:
    options = [
        *["--config", str(CONFIGS / "contexts" / "reflections.yaml"), "--data.context.init_args.groups", "2"],
        *["--data.play.max_turns", "2"],
    ]
    whole = fit_here(tmp_path / "whole", *options)
    first = fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "1")
    notes = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["RolloutDataModule"]["context"]["notes"]
    assert sum(map(len, notes.values())) > 0
    again = fit_here(tmp_path / "parts", *options, "--ckpt_path", "last")
    assert again == first
    same(whole, again)
    state = torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)["RolloutDataModule"]["context"]
    assert state["notes"] != notes, "the second iteration has written more"
