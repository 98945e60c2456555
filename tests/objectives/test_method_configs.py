"""configs/objectives: each file is a method that trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from helpers.configs import built
from helpers.losses import example

METHODS = sorted((CONFIGS / "objectives").glob("*.yaml"))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_config_is_a_method(path: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"  # a recipe to ride on
    base.write_text(
        "model: {objective: {class_path: sdar_pl.objectives.SDAR, init_args: {reference_coefficient: 0.02}}}\n"
        "data: {advantage: {class_path: sdar_pl.objectives.GroupAdvantage}}\n"
    )
    for config in (built(path), built(base, path)):
        objective = config.model.objective
        objective.validate()
        inputs = replace(example(), shaped=objective.shapes_iteration)
        out = objective(inputs)
        assert out.loss.isfinite()
        assert torch.autograd.grad(out.loss, inputs.student_logprobs)[0].abs().sum() > 0
        if config.data.advantage is not None:
            config.data.advantage.validate(8)
    assert path.read_text().startswith("# ")


def test_yaml_reaches_the_parts() -> None:
    by_name = {path.stem: built(path).model.objective for path in METHODS}
    assert by_name["sdar"].distillation.coefficient == 0.01
    assert by_name["opsd"].policy_loss is None
    assert by_name["dapo"].policy_loss.dual_clip is None
    assert by_name["rlsd"].shaper.schedule(50) == 0.5
    assert by_name["skill_sd"].distillation.estimator.importance
    assert by_name["gspo"].policy_loss.clip_high == 4e-4
    assert by_name["sdar_js"].distillation.estimator.kind == "js"
    assert by_name["sdar_forward_kl"].teacher_top_k == 64
