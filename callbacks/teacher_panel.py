"""TeacherPanel: the teacher's own success on the validation panel, beside the student's."""

from __future__ import annotations

from typing import Any

import lightning as L

from sdar_pl.callbacks.summary import Results, gathered, results_of
from sdar_pl.callbacks.trainer_access import data_of, module_of
from sdar_pl.errors import UserError
from sdar_pl.reports.statistics import Interval, paired_difference
from sdar_pl.skills.providers import NoContext


class TeacherPanel(L.Callback):
    """Logs ``val/teacher_success``: the panel played by the teacher – its weights, reading the privileged context.

    A teacher is worth following while it does better than its student. One that has the student's weights may decline
    with them, and distillation then pulls both down (docs/results.md); the gap does not show it. Watchdog warns where
    the teacher that is followed does worse with 95 % certainty. A validation takes twice as long.

    Raises ``UserError`` without a context that can be shown to one who plays.
    """

    #: what it logs, for schedules that need it (sampling/compatibility.py)
    measures = ("val/teacher_success",)

    def __init__(self) -> None:
        self.student: Results = {}
        #: the teacher's share, and by how much it leads (95 %, paired bootstrap over the tasks), on the latest panel
        self.latest: tuple[float, Interval] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        context = data_of(trainer).context
        if isinstance(context, NoContext) or context.after_play:
            what = "there is none" if isinstance(context, NoContext) else "it is made of finished episodes"
            raise UserError(
                f"trainer.callbacks: TeacherPanel shows data.context to a teacher that plays, and {what}; use "
                "skills or a reference solution, or leave the callback out"
            )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.student = {}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.student.update(results_of(outputs))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        data = data_of(trainer)
        with trainer.precision_plugin.forward_context():
            episodes = data.evaluate(data.panel_share("validate"), as_teacher=True)
        teacher, student = gathered(results_of(episodes)), gathered(self.student)
        pairs = [(student[task][1], success) for task, (_, success) in teacher.items() if task in student]
        lead = paired_difference(*zip(*pairs, strict=True))
        share = sum(success for _, success in pairs) / len(pairs)
        self.latest = share, lead
        module_of(trainer).write({"val/teacher_success": share})
