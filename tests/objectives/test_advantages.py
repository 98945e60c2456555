"""Advantages from rewards: group, batch and step."""

from __future__ import annotations

import pytest
import torch

from sdar_pl import objectives as O
from sdar_pl.errors import UserError
from sdar_pl.objectives import functional as F


def test_batch_advantage_standardises_the_batch() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 5.0, 7.0, 7.0])
    groups, episodes = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 2, 3, 3])
    got = O.BatchAdvantage()(rewards, groups, episodes)
    one_each = got[[0, 2, 3, 4]]
    assert one_each.mean().abs() < 1e-6
    assert one_each.std().item() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(got[[0, 3]], torch.tensor([got[1], -got[4]]))
    plain = O.BatchAdvantage("none")(rewards, groups, episodes)
    assert plain[2] < plain[0] < plain[3] < plain[4]
    assert plain[[0, 2, 3, 4]].mean().abs() < 1e-6


def test_gigpo_adds_a_step_to_the_episode() -> None:
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
    groups, episodes, anchors = torch.zeros(4).long(), torch.tensor([0, 0, 1, 1]), torch.tensor([7, 8, 7, 9])
    gigpo = O.GiGPOAdvantage(weight=2.0, gamma=0.5, scale="none")
    base = O.GroupAdvantage(scale="none")(rewards, groups, episodes)
    got = gigpo(rewards, groups, episodes, anchors=anchors)
    # Anchor 7 is shared: discounted returns 0.5 and 0; the others are alone and gain nothing.
    torch.testing.assert_close(got - base, torch.tensor([0.5, 0.0, -0.5, 0.0]))
    steps = gigpo(rewards, groups, episodes, anchors=anchors, step_rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(steps, got)
    apart = gigpo(rewards, torch.tensor([0, 0, 1, 1]), episodes, anchors=anchors)
    torch.testing.assert_close(apart, rewards)  # an anchor is only shared within a group
    assert torch.equal(
        O.GiGPOAdvantage(weight=0.0)(rewards, groups, episodes, anchors=anchors),
        O.GroupAdvantage()(rewards, groups, episodes),
    )
    with pytest.raises(UserError, match="anchor"):
        gigpo(rewards, groups, episodes)


def test_group_statistics_count_each_episode_once() -> None:
    rewards = torch.tensor([1.0] * 9 + [0.0])
    groups, episodes = torch.zeros(10).long(), torch.tensor([0] * 9 + [1])
    by_episode = F.group_advantages(rewards, groups, episodes, scale="none")
    torch.testing.assert_close(by_episode, torch.tensor([0.5] * 9 + [-0.5]))
    by_row = F.group_advantages(rewards, groups, episodes, unit="row", scale="none")
    torch.testing.assert_close(by_row, torch.tensor([0.1] * 9 + [-0.9]))
    others = F.group_advantages(rewards, groups, episodes, scale="leave-one-out")
    torch.testing.assert_close(others, torch.tensor([1.0] * 9 + [-1.0]))


def test_equal_rewards_give_exactly_nothing() -> None:
    rewards, groups = torch.full((8,), 0.1), torch.zeros(8).long()
    for scale in ("std", "none", "leave-one-out"):
        got = F.group_advantages(rewards, groups, torch.arange(8), scale=scale)
        assert got.abs().max() < 1e-9


def test_a_group_of_one_keeps_its_reward() -> None:
    got = F.group_advantages(torch.tensor([10.0]), torch.tensor([3]), torch.tensor([0]))
    assert got.item() == 10.0
