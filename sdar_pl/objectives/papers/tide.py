"""TIDE's global part (2609.35058): weight passes from the teacher to the rewards as the gap's decline levels off.

Left out: its local part, which weighs turns by returns from equal states and by the teacher's surprise.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdar_pl.checks import at_least, between
from sdar_pl.objectives.schedules import KEY, Schedule

EPSILON = 1e-8


class TIDE(Schedule):
    """TIDE's global weights (2609.35058): λ_k = f + (1 − f)(1 − r_k) of the distillation and β_k = f + (1 − f)·r_k of
    the policy loss; r_k rises while the decline of the gap levels off.

        G_k = mean over turns of the mean |Δ| over the turn's tokens       (``distill/turn_gap``)
        m_k = decay·m_{k−1} + (1 − decay)·G_k,  m_1 = G_1
        I_k = (m_{k−W+1} − m_k) / max(m_{k−W+1}, ε)
        r_k = min(r_{k−1} + η, 1) where 0 < I_k ≤ ζ, else r_{k−1};  r_0 = 0

    Iteration k + 1 has λ_k and β_k, one later than in the paper: G_k is known when iteration k has ended.

    Args:
        window: W ≥ 2, number of iterations over which the decline is measured; 10 in the paper.
        threshold: ζ ≥ 0, relative decline below which the gap levels off; 0.02 in the paper.
        step: η in (0, 1], how much weight passes in an iteration; 0.02 in the paper.
        decay: share of the old mean in the new one, in [0, 1); 0.9 in the paper.
        floor: f in [0, 1], least weight of either loss; 0.1 in the paper.
    """

    def __init__(
        self, window: int = 10, threshold: float = 0.02, step: float = 0.02, decay: float = 0.9, floor: float = 0.1
    ) -> None:
        self.window = at_least(f"{KEY}.window", window, 2)
        self.threshold = at_least(f"{KEY}.threshold", threshold, 0)
        self.step = between(f"{KEY}.step", step, 0, 1, ends="(]")
        self.decay = between(f"{KEY}.decay", decay, 0, 1, ends="[)")
        self.floor = between(f"{KEY}.floor", floor, 0, 1)
        self._means: list[float] = []  # m_{k−W+1} … m_k
        self._passed = 0.0  # r_k

    def __call__(self, iteration: int) -> float:
        return self.floor + (1 - self.floor) * (1 - self._passed)

    def policy_factor(self, iteration: int) -> float:
        return self.floor + (1 - self.floor) * self._passed

    def observe(self, figures: Mapping[str, float]) -> None:
        if (magnitude := figures.get("distill/turn_gap")) is None:
            return
        last = self._means[-1] if self._means else magnitude
        self._means = [*self._means, self.decay * last + (1 - self.decay) * magnitude][-self.window :]
        if len(self._means) == self.window:
            first = self._means[0]
            if 0 < (first - self._means[-1]) / max(first, EPSILON) <= self.threshold:
                self._passed = min(self._passed + self.step, 1.0)
