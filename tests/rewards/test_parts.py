"""The parts of ToolCUA's reward (2605.12481) against figures worked out by hand, and their sum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from helpers.builders import an_outcome
from helpers.worlds import Echo

from sdar_pl.environments.household import Household
from sdar_pl.errors import UserError
from sdar_pl.rewards import GroupReward, Outcome, PathEfficiency, RewardSum, ToolUse, shape_rewards
from sdar_pl.types import Episode, Task


def played(success: bool, steps: int, tool: bool = False, kind: str = "k", group: int = 0) -> Episode:
    """An episode of so many turns, whose first one may call the tool."""
    episode = an_outcome(group, 0, float(success))
    episode.task = Task("t", kind, "")
    last = episode.turns[-1]
    quiet = replace(last, action="look", observation=replace(last.observation, reward=0.0, done=False, success=False))
    episode.turns = [*[replace(quiet) for _ in range(steps - 1)], last]
    if tool:
        episode.turns[0].action = "fetch mug"
    return episode


#: steps 4, 8, 10, 6: s̄ = 7; the third one fails
GROUP = [played(True, 4), played(True, 8), played(False, 10), played(True, 6)]


def test_path_efficiency_by_hand() -> None:
    # 1 + (7 − 4)/7; exp(−(8 − 7)/(12 − 7)); 0; 1 + (7 − 6)/7
    assert PathEfficiency(max_steps=12).shape(GROUP) == pytest.approx([10 / 7, math.exp(-0.2), 0, 8 / 7])
    # With the paper's S = 30: exp(−1/23).
    assert PathEfficiency().shape(GROUP)[1] == pytest.approx(math.exp(-1 / 23))


def test_path_efficiency_has_a_value_where_the_formula_has_none() -> None:
    full = [played(True, 12), played(True, 12)]  # s = s̄ = S: 0/0
    assert PathEfficiency(max_steps=12).shape(full) == [1.0, 1.0]
    assert PathEfficiency(max_steps=5).shape(GROUP)[:2] == [pytest.approx(10 / 7), 0.0]  # s̄ > S: set too low
    assert PathEfficiency(max_steps=12).shape([played(True, 3)]) == [1.0]


@pytest.mark.parametrize(
    ("success", "tool", "profits", "value"),
    [
        *((True, True, True, 1.0), (True, False, True, 0.0), (True, True, False, 0.0), (True, False, False, 1.0)),
        *((False, True, True, 0.0), (False, False, True, 0.0), (False, True, False, 0.0), (False, False, False, 0.0)),
    ],
)
def test_tool_use_by_hand(success: bool, tool: bool, profits: bool, value: float) -> None:
    reward = ToolUse("fetch ", kinds=["k"] if profits else [])
    assert reward.shape([played(success, 3, tool)]) == [value]


def test_no_failure_is_worth_more_than_a_success() -> None:
    """The extras are gated by success: 0.4 + 0.2·2 at most for a success, exactly 0 for a failure."""
    total = RewardSum([Outcome(), ToolUse("fetch ", kinds=["k"]), PathEfficiency(max_steps=12)])
    values = total.shape([played(False, 1, tool=True), played(True, 12), played(True, 3, tool=True)])
    assert values[0] == 0
    assert values[1] > 1
    assert 1 < values[2] <= 1.8


def test_a_sum_by_hand() -> None:
    group = [played(True, 4, tool=True), played(True, 8), played(False, 6)]  # s̄ = 6
    total = RewardSum([Outcome(), ToolUse("fetch ", kinds=["k"]), PathEfficiency(max_steps=12)])
    late = math.exp(-1 / 3)
    assert total.shape(group) == pytest.approx([1 + 0.4 + 0.2 * 4 / 3, 1 + 0.2 * late, 0])
    assert group[0].parts == pytest.approx({"outcome": 1.0, "tools": 1.0, "path": 4 / 3})  # before their weights
    assert group[2].parts == {"outcome": 0.0, "tools": 0.0, "path": 0.0}


def test_parts_normalised_apart_by_hand() -> None:
    """GDPO: deviations 1 of (1, −1, 0)·1; of two parts whose sums are equal the episodes stay apart."""
    group = [played(True, 2, tool=True), played(True, 2), played(False, 2)]
    total = RewardSum([Outcome(), ToolUse("fetch ", kinds=["k"], weight=0.5)], normalise=True)
    third = 1 / math.sqrt(3)  # deviation of (1, 1, 0) and of (1, 0, 0), n − 1
    outcome = [1 / 3 / third, 1 / 3 / third, -2 / 3 / third]
    tools = [2 / 3 / third, -1 / 3 / third, -1 / 3 / third]
    assert total.shape(group) == pytest.approx([o + 0.5 * t for o, t in zip(outcome, tools, strict=True)], rel=1e-5)
    same = [played(True, 2), played(True, 2)]
    assert total.shape(same) == [0.0, 0.0]


def test_every_group_is_shaped_alone_and_failed_episodes_are_left_out() -> None:
    episodes = [*GROUP, played(True, 20, group=1), replace(played(False, 3), failed="boom")]
    shape_rewards(PathEfficiency(max_steps=12), episodes)
    assert [e.training_reward for e in episodes[:4]] == PathEfficiency(max_steps=12).shape(GROUP)
    assert episodes[4].training_reward == 1.0  # its own mean
    assert episodes[5].shaped is None
    again = [played(True, 4)]
    assert shape_rewards(None, again)[0].training_reward == again[0].reward == 1.0


def test_what_is_no_number_is_refused() -> None:
    class Broken(GroupReward):
        def shape(self, group: object) -> list[float]:
            return [math.nan]

    with pytest.raises(UserError, match=r"data\.rewards: Broken gives nan .*; must be finite"):
        shape_rewards(Broken(), [played(True, 1)])


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"data\.rewards\.action: '\('"):
        ToolUse("(")
    with pytest.raises(UserError, match=r"data\.rewards\.kinds: null, but Echo does not label"):
        ToolUse("fetch ").bind(Echo())
    with pytest.raises(UserError, match=r"data\.rewards\.kinds: fly; must be among echo"):
        ToolUse("fetch ", kinds=["fly"]).bind(Echo())
    for parts in ([], [Outcome(), Outcome()]):
        with pytest.raises(UserError, match=r"data\.rewards\.parts: .*; must be one or more, each once"):
            RewardSum(list(parts))


def test_the_household_labels_its_tasks() -> None:
    world = Household(size="tiny", macros=True)
    task = world.tasks("train")[0]
    reward = ToolUse("fetch ")
    RewardSum([reward]).bind(world)
    profits = world.profits_from_tools(task)
    assert reward.shape([replace(played(True, 2, tool=profits), task=task)]) == [1.0]
    assert reward.shape([replace(played(True, 2, tool=not profits), task=task)]) == [0.0]
