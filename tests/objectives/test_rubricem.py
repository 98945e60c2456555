"""RubricEM's stage advantages (2605.10899) against figures worked out by hand, and GRPO as their last column."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.builders import an_outcome

from sdar_pl.batch import rows_of
from sdar_pl.errors import UserError
from sdar_pl.objectives import GroupAdvantage, StageAdvantage
from sdar_pl.scoring import set_advantages
from sdar_pl.types import Episode

GROUPS, EPISODES = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
TWO = [[1.0, 0.8], [0.0, 1.0]]  # the paper's research and answer


def advantages(matrix: list[list[float]] | None, rewards: list[list[float]], scale: str = "none") -> list[list[float]]:
    stages = torch.tensor(rewards, dtype=torch.float64)
    advantage = StageAdvantage(matrix, scale=scale)  # type: ignore[arg-type]
    found: list[list[float]] = advantage(stages[:, -1], GROUPS, EPISODES, stage_rewards=stages).tolist()
    return found


def test_two_stages_by_hand() -> None:
    """G of the first stage: 1 + 0.8, 0.5 + 0, 0 + 0.8, mean 31/30; of the second: 1, 0, 1, mean 2/3."""
    found = advantages(TWO, [[1.0, 1.0], [0.5, 0.0], [0.0, 1.0]])
    mean = 3.1 / 3
    assert [row[0] for row in found] == pytest.approx([1.8 - mean, 0.5 - mean, 0.8 - mean])
    assert [row[1] for row in found] == pytest.approx([1 / 3, -2 / 3, 1 / 3])
    deviation = math.sqrt(((1.8 - mean) ** 2 + (0.5 - mean) ** 2 + (0.8 - mean) ** 2) / 2)
    scaled = advantages(TWO, [[1.0, 1.0], [0.5, 0.0], [0.0, 1.0]], "std")
    assert scaled[0][0] == pytest.approx((1.8 - mean) / deviation, rel=1e-5)


def test_the_paper_s_four_stages_by_hand() -> None:
    """One stage's reward of 3 in one episode: each stage before it is credited with its number of the matrix."""
    columns = {1: [0.4, 1.0, 0.0, 0.0], 2: [0.6, 0.4, 1.0, 0.0], 3: [0.8, 0.8, 0.8, 1.0]}
    for stage, credited in columns.items():
        first = [0.0] * 4
        first[stage] = 3.0
        found = advantages(None, [first, [0.0] * 4, [0.0] * 4])
        assert found[0] == pytest.approx([2 * c for c in credited])  # 3c less the mean c
        assert found[1] == pytest.approx([-c for c in credited])


def test_a_later_stage_owes_nothing_to_an_earlier_one() -> None:
    found = advantages(None, [[1.0, 0.0, 0.0, 0.0], [0.0] * 4, [0.5, 0.0, 0.0, 0.0]])
    assert all(row[1:] == [0.0, 0.0, 0.0] for row in found)


def staged(index: int, rewards: tuple[float, float]) -> Episode:
    """An episode of two turns, the second one in the second stage."""
    episode = an_outcome(0, index, 0.0)
    episode.turns = [*episode.turns[:1] * 2]
    first, second = (type(t)(**vars(t)) for t in episode.turns)
    second.stage, second.penalty = 1, 0.1 * index
    episode.turns = [first, second]
    episode.parts = {"search": rewards[0], "answer": rewards[1]}
    episode.shaped = rewards[1]
    return episode


@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("scale", ["std", "none", "leave-one-out"])
def test_the_last_column_alone_is_grpo_bit_for_bit(history: str, scale: str) -> None:
    episodes = [staged(i, r) for i, r in enumerate([(0.2, 1 / 3), (0.9, 0.0), (0.1, 0.7), (0.0, 1 / 3)])]
    found = []
    for advantage in (GroupAdvantage(scale=scale), StageAdvantage([[0.0, 1.0], [0.0, 1.0]], scale=scale)):  # type: ignore[arg-type]
        rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
        set_advantages(rows, episodes, advantage)
        found.append([row.advantages for row in rows])
    assert found[0] == found[1]
    assert len({a for row in found[0] for a in row}) > 3


def test_every_turn_has_its_stage_s_advantage() -> None:
    """Two stages of opposite merit; an invalid turn's penalty comes off its own turn."""
    episodes = [staged(0, (1.0, 0.0)), staged(1, (0.0, 1.0))]
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, "conversation")]
    set_advantages(rows, episodes, StageAdvantage([[1.0, 0.0], [0.0, 1.0]], scale="none"))
    assert rows[0].advantages == pytest.approx([0.5, -0.5])
    assert rows[1].advantages == pytest.approx([-0.5, 0.5 - 0.1])


def test_refusals() -> None:
    for matrix, words in (
        ([[1.0, 0.0]], "must be square"),
        ([], "must be square"),
        ([[1.0, 0.0], [0.1, 1.0]], "below"),
    ):
        with pytest.raises(UserError, match=rf"data\.advantage\.matrix: .*{words}"):
            StageAdvantage(matrix)
    with pytest.raises(UserError, match=r"data\.rewards: StageAdvantage needs"):
        StageAdvantage()(torch.zeros(3), GROUPS, EPISODES)
