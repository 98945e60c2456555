"""The student's success beside the teacher's, for schedules that compare the two."""

from __future__ import annotations

from collections.abc import Mapping

from sdar_pl.checks import between
from sdar_pl.objectives.schedules import KEY, Schedule

STUDENT, TEACHER = "val/success", "val/teacher_success"


class ComparesSuccesses(Schedule):
    """Base of schedules that compare the student's success with the teacher's.

    Both are of one kind of play: of the panel, temperature and tasks alike (``sdar_pl.callbacks.TeacherPanel``), or of
    training, where ``teacher_success`` states the teacher's as a number.

    Args:
        teacher_success: the teacher's success on the training tasks, a share; null: both successes are the panel's.
    """

    def __init__(self, teacher_success: float | None) -> None:
        self.teacher_success = between(f"{KEY}.teacher_success", teacher_success, 0, 1)

    def needs(self) -> tuple[str, ...]:
        return (TEACHER,) if self.teacher_success is None else ()

    def successes(self, figures: Mapping[str, float]) -> tuple[float, float] | None:
        """The student's and the teacher's success in the iteration; None where it has no new ones."""
        if self.teacher_success is not None:
            return (figures["train/success"], self.teacher_success) if "train/success" in figures else None
        return (figures[STUDENT], figures[TEACHER]) if TEACHER in figures else None
