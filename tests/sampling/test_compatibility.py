"""Parts that do not go together are refused; both halves of an iteration that is set up in Python agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.losses import DOUBLE

from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import TransformersEngine
from sdar_pl.engines.base import Sampling
from sdar_pl.engines.inverse_cdf import truncate
from sdar_pl.environments.household import Household
from sdar_pl.errors import UserError
from sdar_pl.module import SDARModule
from sdar_pl.objectives import GRPO
from sdar_pl.policy import LoRA, Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules
from sdar_pl.teachers import Initial, MovingAverage


def halves(policy: Policy, model: dict[str, Any] | None = None, **data: Any) -> tuple[SDARModule, RolloutDataModule]:
    """A run as somebody writes it in Python, without the command line's links."""
    objective = GRPO()
    given: dict[str, Any] = {
        "objective": objective,
        "environment": Household(size="tiny", validation_tasks=6),
        "engine": TransformersEngine(),
        "prompter": Prompter(history="conversation", max_prompt_tokens=1024),
        "sampling": Sampling(max_new_tokens=8),
        "play": PlayRules(max_turns=1),
        "tasks_per_iteration": 2,
        "group_size": 2,
    } | data
    return SDARModule(policy, **({"objective": objective} | (model or {}))), RolloutDataModule(policy, **given)


def trainer(folder: Path) -> L.Trainer:
    return L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        reload_dataloaders_every_n_epochs=1,
        inference_mode=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_python_trains_at_the_temperature_of_its_rollouts(tmp_path: Path) -> None:
    """Log-probs at another temperature would differ from the engine's."""
    module, data = halves(Policy("tiny-household", lora=LoRA()), sampling=Sampling(temperature=0.6, max_new_tokens=8))
    run = trainer(tmp_path)
    run.fit(module, datamodule=data)
    assert float(run.callback_metrics["engine/logprob_mismatch"]) < 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "model", "data"),
    [
        ("objective", {}, {"objective": GRPO()}),
        ("teacher", {"teacher": Initial()}, {}),
        ("teacher", {"teacher": MovingAverage(0.9)}, {"teacher": MovingAverage(0.9)}),
        ("teacher_refresh", {}, {"teacher_refresh": "step"}),
    ],
)
def test_halves_with_different_parts_are_refused(
    tmp_path: Path, name: str, model: dict[str, Any], data: dict[str, Any]
) -> None:
    run = trainer(tmp_path)
    module, datamodule = halves(Policy("tiny-household", lora=LoRA()), model, **data)
    with pytest.raises(UserError, match=f"^data.{name}: differs from model.{name}; "):
        run.fit(module, datamodule=datamodule)
    assert module.policy.net is None, "before any work is done"


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.9), ("top_k", 50)])
def test_training_on_a_part_of_the_policy_is_refused(name: str, value: float) -> None:
    part = Sampling(**{name: value})
    policy = Policy("tiny-household")
    with pytest.raises(UserError, match=rf"^data.sampling.{name}: {value:g} cuts off a part of the policy"):
        halves(policy, sampling=part)
    halves(policy, evaluation=part)


def test_a_part_of_the_policy_would_be_pushed_to_less_entropy() -> None:
    """The gradient of tokens that all have the same advantage: 0 in expectation, unless a part is never sampled."""
    logprobs = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).log_softmax(0)

    def step(sampling: Sampling) -> torch.Tensor:
        sampled = truncate(logprobs[None], sampling)[0]
        sampled = sampled / sampled.sum()
        return sampled - logprobs.exp()  # Σ_y q(y) ∇log p(y)

    torch.testing.assert_close(step(Sampling()), torch.zeros(6, dtype=DOUBLE))
    before = torch.special.entr(logprobs.exp()).sum()
    for sampling in (Sampling(top_p=0.8), Sampling(top_k=3)):
        after = torch.special.entr((logprobs + 0.1 * step(sampling)).softmax(0)).sum()
        assert after < before - 0.001
