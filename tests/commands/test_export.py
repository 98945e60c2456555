"""Exports: adapters in plain peft, merged and whole models in plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import fit_here, weights

from sdar_pl.cli import main
from sdar_pl.modeling.sources import ASSETS
from sdar_pl.policy import LoRA, Policy, packaged_models


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of the tiny policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("run"), "--trainer.max_epochs", "3")


def logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = net.eval()(torch.arange(5, 25)[None]).logits
    return values


@pytest.mark.slow
def test_adapters_load_in_plain_peft_and_merge(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    best = run / "checkpoints" / "best.ckpt"
    policy = Policy("tiny-household", lora=LoRA())
    policy.build()
    known = torch.load(best, weights_only=True)["state_dict"]
    wrong = policy.load_state_dict({k.removeprefix("policy."): v for k, v in known.items()}, strict=False)
    assert not wrong.unexpected_keys
    expected = logits(policy.net)

    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "adapter")]) == 0
    for folder in (run / "adapter", tmp_path / "adapter"):
        base = AutoModelForCausalLM.from_pretrained(ASSETS / packaged_models()[0])
        assert not torch.allclose(logits(base), expected, atol=1e-5)
        assert torch.equal(logits(PeftModel.from_pretrained(base, str(folder))), expected)

    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "model"), "--merge"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "model").chat_template
    capsys.readouterr()
    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "model")]) == 2
    assert main(["export", "--ckpt_path", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "new")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--out" in first
    assert "there is no such file" in second


@pytest.mark.slow
def test_fully_trained_weights_are_exported_whole(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    more = ["--model.policy.lora", "null", "--model.objective.init_args.reference_coefficient", "0"]
    more += ["--model.teacher", "sdar_pl.teachers.Current"]
    made = fit_here(tmp_path / "full", *more, "--trainer.max_epochs", "1")
    last = made / "checkpoints" / "last.ckpt"
    assert not (made / "adapter").exists()
    assert main(["export", "--ckpt_path", str(last), "--out", str(tmp_path / "a")]) == 2
    assert main(["export", "--ckpt_path", str(last), "--out", str(tmp_path / "b"), "--merge"]) == 0
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    known = weights(made)["policy.net.model.embed_tokens.weight"]
    assert torch.equal(net.get_input_embeddings().weight, known)
