"""RubricEM's stage-structured advantage (2605.10899): each stage of an episode is compared with the group's same stage.

    G_{i,k} = Σ_{j ≥ k} Λ_{kj} R_{i,j}        A_{i,k} = (G_{i,k} − mean_i G_{i,k}) / (std_i G_{i,k} + ε)

R_{i,k} is the reward of stage k in episode i of a group. Λ is causal: a stage is credited with its own reward and with
those of later stages that it made possible. All tokens of stage k carry A_{i,k}. Left out: where stages and their
rewards come from (sdar_pl/rewards/stage_rewards.py), and the training of the reflection writer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.objectives.advantages import GroupAdvantage
from sdar_pl.objectives.group_statistics import Scale, group_advantages

#: Λ of the paper, for the stages plan, research, review, answer
RUBRICEM = ((1.0, 0.4, 0.6, 0.8), (0.0, 1.0, 0.4, 0.8), (0.0, 0.0, 1.0, 0.8), (0.0, 0.0, 0.0, 1.0))


class StageAdvantage(GroupAdvantage):
    """Group-relative advantage of each stage (RubricEM, 2605.10899). Λ with nothing but its last column 1 is GRPO.

    Args:
        matrix: Λ, one row and one column for each stage of ``data.rewards``; 0 below the diagonal. Null: the paper's
            four stages (plan, research, review, answer).
        scale: std divides by the group's deviation, none does not, leave-one-out compares with the mean of the others.

    Raises ``UserError`` for a matrix that is not square or not causal.
    """

    def __init__(self, matrix: list[list[float]] | None = None, scale: Scale = "std") -> None:
        super().__init__("episode", scale)
        rows = [tuple(row) for row in (RUBRICEM if matrix is None else matrix)]
        if not rows or any(len(row) != len(rows) for row in rows):
            raise UserError(f"data.advantage.matrix: rows of {[len(row) for row in rows]} numbers; must be square")
        if any(value for k, row in enumerate(rows) for value in row[:k]):
            raise UserError("data.advantage.matrix: a number below the diagonal credits a stage with an earlier one; "
                            "must be 0")  # fmt: skip
        self.matrix = rows
        self.needs_stages = len(rows)

    def __call__(
        self, rewards: Tensor, groups: Tensor, episodes: Tensor, *, stage_rewards: Tensor | None = None
    ) -> Tensor:
        """Advantages [N, K] of each row's stages, from the ``stage_rewards`` [N, K] of its episode.

        ``rewards`` [N] are not read. Raises ``UserError`` without ``stage_rewards``.
        """
        if stage_rewards is None:
            raise UserError("data.rewards: StageAdvantage needs a reward for each stage; set it to StageRewards")
        credited = stage_rewards.double() @ torch.tensor(self.matrix, dtype=torch.float64).T  # [N, K]
        columns = [
            group_advantages(credited[:, k], groups, episodes, scale=self.scale) for k in range(len(self.matrix))
        ]
        return torch.stack(columns, dim=1)
