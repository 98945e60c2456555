"""RetireOPD (2609.20784): the teacher retires for good when the student has caught up and learns no more from it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from sdar_pl.checks import at_least, positive
from sdar_pl.objectives.schedules import KEY
from sdar_pl.objectives.successes import ComparesSuccesses


class RetireOPD(ComparesSuccesses):
    """RetireOPD (2609.20784): 1, and 0 for good after a window in which (a) the mean gap stops shrinking, |Δ̄_w| ≥
    |Δ̄_{w−1}|, and (b) the student's mean success is at least ``share`` of the teacher's.

    Δ̄_w is the mean of ``gap/mean`` over the iterations of window w. The paper's length of a window is not known to us.
    Its teacher was trained by GRPO with the skills in its prompt, then frozen (``sdar_pl.teachers.Trained``).

    Args:
        window: number of iterations, ≥ 1, after which (a) and (b) are judged.
        share: share of the teacher's success, > 0; 0.9 in the paper.
        teacher_success: the teacher's success on the training tasks, a share; null: both successes are the panel's
            (``sdar_pl.callbacks.TeacherPanel``).
    """

    def __init__(self, window: int = 5, share: float = 0.9, teacher_success: float | None = None) -> None:
        super().__init__(teacher_success)
        self.window = at_least(f"{KEY}.window", window, 1)
        self.share = positive(f"{KEY}.share", share)
        self._gaps: list[float] = []  # of the present window
        self._student: list[float] = []
        self._teacher: list[float] = []
        self._last_gap: float | None = None  # of the window before
        self._retired = False

    def __call__(self, iteration: int) -> float:
        return 0.0 if self._retired else 1.0

    def observe(self, figures: Mapping[str, float]) -> None:
        if (seen := self.successes(figures)) is not None:
            self._student, self._teacher = [*self._student, seen[0]], [*self._teacher, seen[1]]
        if "gap/mean" in figures:  # it is missing where the teacher reads nothing
            self._gaps = [*self._gaps, figures["gap/mean"]]
        if len(self._gaps) < self.window:
            return
        gap = abs(fmean(self._gaps))
        stalls = self._last_gap is not None and gap >= self._last_gap
        near = bool(self._student) and fmean(self._student) >= self.share * fmean(self._teacher)
        self._retired = self._retired or (stalls and near)
        self._last_gap, self._gaps, self._student, self._teacher = gap, [], [], []
