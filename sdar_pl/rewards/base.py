"""GroupReward: the training reward of a group's episodes, between the rollout and the advantage.

The environment's own reward (``Episode.reward``) stays: metrics, panels and reports show it. Left out: advantages
(objectives/), penalties of invalid responses (``data.play.invalid_penalty``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.types import Episode


class GroupReward(ABC):
    """Base class: ``shape(group)`` returns the training reward of each episode of one group.

    ``name`` is the reward's name in logs, ``weight`` its weight as a part of a RewardSum. ``stages`` are the names of
    the stages into which the reward divides episodes, in order; empty for one that divides none.
    """

    name: str = "reward"
    weight: float = 1.0
    stages: tuple[str, ...] = ()

    def bind(self, environment: Environment) -> None:  # noqa: B027 - most accept any
        """Receive the environment before the first task. Raises ``UserError`` if the reward is not defined there."""

    @abstractmethod
    def shape(self, group: Sequence[Episode]) -> list[float]:
        """One number for each episode of the ``group``, all of one task.

        It may note in ``Episode.parts`` what the number is made of, and in ``Turn.stage`` each turn's stage; it changes
        nothing else.
        """


def shape_rewards(rewards: GroupReward | None, episodes: list[Episode]) -> list[Episode]:
    """The same episodes: each that counts has its training reward, made group by group.

    Raises ``UserError`` for a number that is not finite.
    """
    if rewards is None:
        return episodes
    groups: dict[int, list[Episode]] = {}
    for episode in episodes:
        if episode.turns and not episode.failed:
            groups.setdefault(episode.group, []).append(episode)
    for group in groups.values():
        for episode, value in zip(group, rewards.shape(group), strict=True):
            if not all(map(math.isfinite, (value, *episode.parts.values()))):
                raise UserError(
                    f"data.rewards: {type(rewards).__name__} gives {value} ({episode.parts}) for task "
                    f"{episode.task.id}; must be finite"
                )
            episode.shaped = float(value)
    return episodes
