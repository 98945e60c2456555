"""Scoring: the advantages of rows, on one rank and on several."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from helpers.builders import an_outcome
from helpers.ranks import on_ranks

from sdar_pl.batch import Row, rows_of
from sdar_pl.objectives.advantages import BatchAdvantage, GroupAdvantage
from sdar_pl.sampling.contexts import update_context_provider
from sdar_pl.scoring import (
    set_advantages,
    step_anchors,
)
from sdar_pl.skills.providers import NoContext
from sdar_pl.types import Episode, Observation, Task, Turn


def test_anchors_are_the_states_before_each_turn() -> None:
    episode = an_outcome(1, 0, 1.0)
    for number in range(3):
        seen = Observation("hall" if number == 1 else f"room {number}", reward=float(number))
        penalty = 0.1 if number == 2 else 0.0
        episode.turns[number:] = [Turn([1], [2], [0.0], "", "", not penalty, seen, penalty=penalty)]
    episode.first = Observation("hall")
    rows = rows_of(episode, 0, "windowed")
    found = step_anchors(rows, [episode])
    # Before the turns: hall, room 0, hall.
    assert found["anchors"].tolist() == [0, 1, 0]
    assert found["step_rewards"].tolist() == [0.0, 1.0, 2.0]
    assert found["step_penalties"].tolist() == [0.0, 0.0, 0.1]


# ---------------------------------------------------------------------- advantages


def test_advantages_are_the_groups() -> None:
    """Two groups; an episode of three rows counts once, and all of its rows get its advantage."""
    rewards = [1.0, 0.0, 0.0, 5.0, 3.0]
    groups = [0, 0, 0, 1, 1]
    episodes = []
    for number, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        won = Turn([1], [0], [0.0], "", "", True, Observation("", reward=reward))
        episodes.append(Episode(Task(str(number), "k", ""), group, number, Observation(""), [won]))
    counts = [3, 1, 1, 1, 2]
    rows = [Row(n, groups[n], [1], [0], [0], [0.0]) for n in range(5) for _ in range(counts[n])]
    random.Random(1).shuffle(rows)
    set_advantages(rows, episodes, GroupAdvantage(scale="none"))
    wanted = {0: 2 / 3, 1: -1 / 3, 2: -1 / 3, 3: 1.0, 4: -1.0}
    assert all(row.advantages[0] == pytest.approx(wanted[row.episode]) for row in rows)
    set_advantages(rows, episodes, GroupAdvantage())
    deviation = (1 / 3) ** 0.5  # of 1, 0, 0, with n − 1
    assert {row.episode: row.advantages[0] for row in rows}[0] == pytest.approx(2 / 3 / deviation, rel=1e-4)


# ---------------------------------------------------------------------- several ranks


REWARDS = [[9.0, 0.0, 0.0], [1.0, 1.0, 4.0], [0.0, 0.0, 0.0]]
EPISODES = [an_outcome(group, i, reward) for group, part in enumerate(REWARDS) for i, reward in enumerate(part)]


@pytest.mark.parametrize("advantage", [BatchAdvantage(), BatchAdvantage("none"), BatchAdvantage(unit="row")])
def test_a_whole_batch_is_that_of_all_ranks(advantage: BatchAdvantage) -> None:
    def advantages(groups: tuple[int, ...]) -> dict[tuple[int, int], float]:
        episodes = [episode for episode in EPISODES if episode.group in groups]
        rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, "windowed")]
        set_advantages(rows, episodes, advantage)
        return {(row.group, episodes[row.episode].index): row.advantages[0] for row in rows}

    alone = advantages((0, 1, 2))
    assert sum(alone.values()) != 0
    ranks = on_ranks([lambda: advantages((1,)), lambda: advantages(()), lambda: advantages((0, 2))])
    assert ranks[0].keys() == {(1, 0), (1, 1), (1, 2)}
    assert ranks[1] == {}
    assert {**ranks[0], **ranks[2]} == pytest.approx(alone, rel=1e-12)


def test_every_rank_hears_of_all_episodes() -> None:
    class Note(NoContext):
        def __init__(self, group: int) -> None:
            self.group, self.heard = group, list[Any]()

        def given(self, task: Task) -> tuple[str, ...]:
            return (f"skill of rank {self.group % 2}",)

        def update(self, task: Task, given: Sequence[str], success: bool) -> None:
            assert task.data is None
            self.heard.append((task.id, given, success))

    def heard(first: int) -> list[Any]:
        context = Note(first)
        update_context_provider(context, [episode for episode in EPISODES if episode.group % 2 == first])
        return context.heard

    even, odd = on_ranks([lambda: heard(0), lambda: heard(1)])
    assert even == odd
    wanted = [(e.task.id, (f"skill of rank {e.group % 2}",), e.success) for e in EPISODES]
    assert even == wanted, "in the order in which one process would play them"
