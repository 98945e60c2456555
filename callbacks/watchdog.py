"""Watchdog: one line for each way in which a training goes wrong without an error, with the cause and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from sdar_pl.callbacks.teacher_panel import TeacherPanel
from sdar_pl.callbacks.trainer_access import data_of, module_of
from sdar_pl.checks import at_least, between, one_of, positive
from sdar_pl.objectives import Objective
from sdar_pl.objectives.gates import ConstantGate
from sdar_pl.reports.statistics import Interval

KEY = "trainer.callbacks.Watchdog"
#: what is watched, in the order of the lines
CONDITIONS = ("entropy", "gate", "ratio", "kl", "success", "groups", "teacher")
#: iterations whose mean is the start of ``train/success``, and its present value
WINDOW = 3


class Watchdog(EarlyStopping):
    """Reads an iteration's figures (metrics.csv) and warns of seven conditions, once each until it has cleared.

    - "entropy": ``policy/entropy`` below ``min_entropy``.
    - "gate": ``gate/mean`` within ``gate_margin`` of 0 or of 1, for gates between 0 and 1 that are not constant.
    - "ratio": ``policy/clip_fraction`` above ``max_clip_fraction``, or ``policy/approx_kl`` beyond ± ``max_kl``.
    - "kl": ``loss/reference_kl`` above ``max_reference_kl``, where it is a mean over tokens.
    - "success": ``train/success`` (mean of 3 iterations) ``max_drop`` below the mean of the first 3.
    - "groups": ``train/equal_groups`` at 1, for a policy loss whose advantages are relative to the group.
    - "teacher": ``val/teacher_success`` below the student's with 95 % certainty (paired; only with TeacherPanel).

    The figures are those of all ranks, so that every rank decides alike without communication. The thresholds are rules
    of thumb. It is Lightning's EarlyStopping in name only, since Lightning calls such callbacks after the module has
    logged.

    Args:
        stop_on: conditions that end the run after the iteration in which they begin.
        min_entropy: in nats, ≥ 0.
        gate_margin: distance from 0 and from 1, in [0, 0.5].
        max_clip_fraction: a share, in (0, 1].
        max_kl: in nats a token, > 0.
        max_reference_kl: in nats a token, > 0.
        max_drop: difference of two shares, in (0, 1].
    """

    def __init__(
        self,
        stop_on: Sequence[str] = (),
        min_entropy: float = 0.01,
        gate_margin: float = 0.02,
        max_clip_fraction: float = 0.5,
        max_kl: float = 0.5,
        max_reference_kl: float = 1.0,
        max_drop: float = 0.2,
    ) -> None:
        super().__init__(monitor="train/success")
        self.stop_on = [one_of(f"{KEY}.stop_on", name, CONDITIONS) for name in stop_on]
        self.min_entropy = at_least(f"{KEY}.min_entropy", min_entropy, 0)
        self.gate_margin = between(f"{KEY}.gate_margin", gate_margin, 0, 0.5)
        self.max_clip_fraction = between(f"{KEY}.max_clip_fraction", max_clip_fraction, 0, 1, ends="(]")
        self.max_kl = positive(f"{KEY}.max_kl", max_kl)
        self.max_reference_kl = positive(f"{KEY}.max_reference_kl", max_reference_kl)
        self.max_drop = between(f"{KEY}.max_drop", max_drop, 0, 1, ends="(]")
        self.holding: list[str] = []  # conditions that held in the last iteration
        self.success: list[float] = []  # of every iteration

    def state_dict(self) -> dict[str, Any]:
        return {"holding": self.holding, "success": self.success}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.holding, self.success = list(state_dict["holding"]), list(state_dict["success"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None: ...

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.success += [figures["train/success"]] if "train/success" in figures else []
        relative = not data_of(trainer).advantage.whole_batch
        panel = next((part.latest for part in trainer.callbacks if isinstance(part, TeacherPanel)), None)  # type: ignore[attr-defined]
        lines = self.judge(figures, module_of(trainer).objective, relative, panel)
        for name, line in lines.items():
            if name in self.holding:
                continue
            trainer.should_stop |= name in self.stop_on
            if trainer.is_global_zero:
                end = "; the run ends (stop_on)" if name in self.stop_on else ""
                warnings.warn(f"watchdog, iteration {trainer.current_epoch + 1}: {line}{end}", stacklevel=2)
        self.holding = list(lines)

    def judge(
        self,
        figures: Mapping[str, float],
        objective: Objective,
        relative: bool = True,
        panel: tuple[float, Interval] | None = None,
    ) -> dict[str, str]:
        """The conditions that hold → their lines.

        Args:
            figures: the iteration's, by their names in metrics.csv; those that are missing are not judged.
            objective: decides which figures mean something.
            relative: whether advantages are relative to the group.
            panel: the teacher's share of the latest panel, and by how much it leads; None: it has not played.
        """
        lines: dict[str, str] = {}
        nan = float("nan")  # a comparison with it is false

        entropy = figures.get("policy/entropy", nan)
        if entropy < self.min_entropy:
            lines["entropy"] = (
                f"policy/entropy is {entropy:.3g} nats, below {self.min_entropy:g}: the policy collapses onto few "
                "responses; lower the learning rate or model.objective.coefficient, or set "
                "model.objective.entropy_coefficient"
            )
        gate, kind = figures.get("gate/mean", nan), objective.distillation and objective.distillation.gate
        if kind and not kind.signed and not isinstance(kind, ConstantGate):
            if gate < self.gate_margin:
                lines["gate"] = (
                    f"gate/mean is {gate:.3g}: the gate is shut, as the teacher rejects nearly every token; look at "
                    "data.context, or lower model.objective.beta"
                )
            elif gate > 1 - self.gate_margin:
                lines["gate"] = (
                    f"gate/mean is {gate:.3g}: the gate is open for nearly every token and selects none; lower "
                    "model.objective.beta"
                )
        clipped, kl = figures.get("policy/clip_fraction", nan), figures.get("policy/approx_kl", nan)
        if clipped > self.max_clip_fraction or abs(kl) > self.max_kl:
            lines["ratio"] = (
                f"policy/clip_fraction is {clipped:.3g}, policy/approx_kl {kl:.3g} nats: the policy moves too far "
                "within an iteration; lower the learning rate or data.steps_per_iteration"
            )
        reference = figures.get("loss/reference_kl", nan)
        if reference > self.max_reference_kl and objective.aggregation != "seq-mean-token-sum":
            lines["kl"] = (
                f"loss/reference_kl is {reference:.3g} nats, above {self.max_reference_kl:g}: the policy has left its "
                "reference; lower the learning rate or raise model.objective.reference_coefficient"
            )
        start, now = (sum(part) / max(1, len(part)) for part in (self.success[:WINDOW], self.success[-WINDOW:]))
        if now < start - self.max_drop:
            lines["success"] = (
                f"train/success is {now:.1%}, {start:.1%} at the start (means of {WINDOW} iterations): the policy "
                "forgets; go back to best.ckpt with a lower learning rate or model.objective.coefficient"
            )
        if figures.get("train/equal_groups", nan) >= 1 and objective.policy_loss is not None and relative:
            lines["groups"] = (
                "train/equal_groups is 1: the rewards of every group are equal and the policy loss learns nothing, as "
                "tasks are too easy or too hard; choose others, raise data.group_size or set data.max_refills"
            )
        followed = objective.needs_teacher and figures.get("distill/coefficient", 1.0) > 0
        if panel is not None and panel[1].high < 0 and followed:
            lines["teacher"] = (
                f"the teacher succeeds on {panel[0]:.1%} of the panel, the student on {panel[0] - panel[1].mean:.1%}: "
                "distillation pulls it down; lower model.objective.coefficient, give it a schedule that ends, or set "
                "model.teacher to sdar_pl.teachers.Initial"
            )
        return lines
