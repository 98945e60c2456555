"""The teacher under another adapter: its log-probs, the policy beside it, refusals, and the control without context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.models import written
from helpers.runs import ROOT, fit_here, metrics, weights
from test_scoring import fill, played

from sdar_pl.errors import UserError
from sdar_pl.policy import LoRA, Policy
from sdar_pl.teachers import Current, Trained

MakePolicy = Callable[..., Policy]


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), LoRA(r=2, alpha=6, target_modules=["q_proj", "up_proj"])])
def test_it_reads_as_the_policy_that_was_trained(lora: LoRA, make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy(seed=1)
    other = Policy(policy.source.name, lora)
    other.build()
    generator = torch.Generator().manual_seed(5)
    for _, parameter in other.trained():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    teacher = Trained(written(other, tmp_path / "adapter"))
    rows = played(policy, "conversation")
    fill(policy, rows, teacher=Current())
    own = [row.teacher_logprobs for row in rows]
    fill(other, rows, teacher=Current())
    wanted = [row.teacher_logprobs for row in rows]
    names = [name for name, _ in policy.trained()]
    for _ in range(2):  # it loads once
        teacher.begin(policy)
        fill(policy, rows, teacher=teacher)
        for row, logprobs in zip(rows, wanted, strict=True):
            torch.testing.assert_close(torch.tensor(row.teacher_logprobs), torch.tensor(logprobs), atol=2e-5, rtol=0)
    assert [row.teacher_logprobs for row in rows] != own
    assert [name for name, _ in policy.trained()] == names, "the teacher is frozen, the policy is not"
    fill(policy, rows, teacher=Current())
    assert [row.teacher_logprobs for row in rows] == own


def test_folders_that_are_none(make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy()
    with pytest.raises(UserError, match=r"model\.teacher\.folder: .*nowhere has no adapter_config\.json; name the"):
        Trained(str(tmp_path / "nowhere")).check(policy)
    with pytest.raises(UserError, match=r"model\.teacher: Trained is an adapter"):
        Trained(str(tmp_path)).check(make_policy(lora=False))


def test_an_adapter_of_another_base(make_policy: MakePolicy, tmp_path: Path) -> None:
    other = Policy("tiny-household", LoRA(r=4, alpha=8))
    other.build()
    teacher, policy = Trained(written(other, tmp_path / "adapter")), make_policy()
    teacher.check(policy)
    with pytest.raises(UserError, match=r"model\.teacher\.folder: .* trained on model\.policy\.model"):
        teacher.begin(policy)


@pytest.mark.slow
def test_a_run_resumes_beside_its_teacher_and_goes_without_context(tmp_path: Path) -> None:
    adapter = fit_here(tmp_path / "first", "--trainer.max_epochs", "1") / "adapter"
    parts = ("teachers/trained", "contexts/none")
    options = [word for part in parts for word in ("--config", str(ROOT / "configs" / f"{part}.yaml"))]
    options += ["--model.teacher.init_args.folder", str(adapter)]
    whole = fit_here(tmp_path / "whole", *options)
    assert metrics(whole)[-1]["gap/mean"] != 0, "the frozen teacher differs from its student without a context"
    fit_here(tmp_path / "parts", *options, "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", *options, "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if ".teacher." in name or not torch.equal(ours[name], theirs[name])]
