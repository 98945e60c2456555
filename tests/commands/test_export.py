"""Exports: adapters in plain peft, merged and whole models in plain transformers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import ENVIRONMENT, fit_here, metrics, weights

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

    command = [sys.executable, "-m", "sdar_pl", "export", "--ckpt_path", str(best), "--out", "model", "--merge"]
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote model\n", ""), "no bars of transformers"
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
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "model"])
def test_the_model_card_s_code_generates(run: Path, tmp_path: Path, merge: bool) -> None:
    out = tmp_path / "exported"
    more = ["--merge"] if merge else []
    assert main(["export", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--out", str(out), *more]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "no text"
    assert yaml.safe_load(card.split("---")[1])["library_name"] == ("transformers" if merge else "peft")
    assert "after 3 iterations" in card
    last = metrics(run)[-1]["val/success"]
    assert f"On the panel of 6 validation tasks that were never trained on: {100 * last:.1f} % (" in card
    assert "| model.objective.distillation.coefficient | 1.0 |" in card
    assert "| data.environment | Household |" in card


@pytest.mark.slow
def test_a_checkpoint_without_its_run_has_a_card(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "mine.ckpt"
    copied.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    assert main(["export", "--ckpt_path", str(copied), "--out", str(tmp_path / "out")]) == 0
    assert "The run's record has no panel of this iteration." in (tmp_path / "out" / "README.md").read_text()


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
