"""ToolUse: a bonus for successes that use tools where the task profits, and none where it does not (2605.12481)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from sdar_pl.checks import at_least, expression
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.rewards.base import GroupReward
from sdar_pl.types import Episode, Task


@runtime_checkable
class LabelsTools(Protocol):
    """An environment that knows which of its tasks profit from its tools."""

    def profits_from_tools(self, task: Task) -> bool:
        """ToolCUA's label t_b: whether the task is done in fewer steps with a tool."""


class ToolUse(GroupReward):
    """ToolCUA's R_tool (2605.12481): 1 for a success that calls a tool where the task profits from tools, or calls none
    where it does not; else 0.

    Args:
        action: regular expression of the actions that call a tool, matched from the action's beginning.
        kinds: kinds of the tasks that profit from tools; null: the environment labels every task
            (``profits_from_tools``).
        weight: of this part in a RewardSum, ≥ 0; 0.4 in the paper, where a success has reward 1.

    Raises ``UserError`` for an expression that is none, an unknown kind, and an environment without labels.
    """

    name = "tools"

    def __init__(self, action: str, kinds: Sequence[str] | None = None, weight: float = 0.4) -> None:
        self.weight = at_least("data.rewards.weight", weight, 0)
        self.action, self.kinds = action, kinds
        self._tool = expression("data.rewards.action", action)
        self._profits: Callable[[Task], bool] = lambda task: task.kind in (kinds or ())

    def bind(self, environment: Environment) -> None:
        if self.kinds is None:
            if not isinstance(environment, LabelsTools):
                raise UserError(
                    f"data.rewards.kinds: null, but {type(environment).__name__} does not label its tasks "
                    "(profits_from_tools); name the kinds that profit from tools"
                )
            self._profits = environment.profits_from_tools
        elif unknown := sorted(set(self.kinds) - set(environment.kinds)):
            raise UserError(f"data.rewards.kinds: {', '.join(unknown)}; must be among {', '.join(environment.kinds)}")

    def shape(self, group: Sequence[Episode]) -> list[float]:
        return [float(episode.success and self.calls(episode) == self._profits(episode.task)) for episode in group]

    def calls(self, episode: Episode) -> bool:
        """Whether the episode calls a tool."""
        return any(self._tool.match(turn.action) for turn in episode.turns)
