"""GATS (2609.37898): the teacher fades as the student's success nears its own, and is left out for good behind it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from sdar_pl.checks import at_least
from sdar_pl.objectives.schedules import KEY
from sdar_pl.objectives.successes import ComparesSuccesses


class GATS(ComparesSuccesses):
    """GATS (2609.37898): L = L_GRPO + (1 − d_t)·λ_t·L_OPD with λ_t = max(1 − M_S,t / M_T, 0).

    M_S,t is the mean of the student's last ≤ K successes before iteration t, M_T that of the teacher's last ≤ K;
    without any, λ_t = 1. d_t is 1 for good once M_S,t ≥ M_T.

    The paper's M_T is of the end of the teacher's own training. Here it is a number or the panel's, then with the
    panel's M_S (see ``teacher_success``).

    Args:
        window: K ≥ 1, number of successes in a mean; 5 in the paper.
        teacher_success: the teacher's success on the training tasks, a share; null: both successes are the panel's
            (``sdar_pl.callbacks.TeacherPanel``).
    """

    def __init__(self, window: int = 5, teacher_success: float | None = None) -> None:
        super().__init__(teacher_success)
        self.window = at_least(f"{KEY}.window", window, 1)
        self._student: list[float] = []
        self._teacher: list[float] = []
        self._factor = 1.0

    def __call__(self, iteration: int) -> float:
        return self._factor

    def observe(self, figures: Mapping[str, float]) -> None:
        if (seen := self.successes(figures)) is None:
            return
        self._student, self._teacher = (
            [*past, new][-self.window :] for past, new in zip((self._student, self._teacher), seen, strict=True)
        )
        student, teacher = fmean(self._student), fmean(self._teacher)
        self._factor = 0.0 if self._factor == 0 or student >= teacher else 1 - student / teacher
