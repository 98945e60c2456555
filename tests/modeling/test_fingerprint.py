"""The fingerprint of a base model: every value counts; precision, quantisation, files and names do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import ROOT
from safetensors.torch import load_file, save_file

from sdar_pl.modeling.fingerprint import checksum
from sdar_pl.policy import LoRA, Policy


def fingerprint(folder: Path, **options: object) -> str:
    policy = Policy(str(folder), LoRA(r=4), **options)  # type: ignore[arg-type]
    policy.build()
    return policy.fingerprint


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_value_counts(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    known = fingerprint(models[family])
    changed = load_file(models[family] / "model.safetensors")
    folder = tmp_path / "changed"
    shutil.copytree(models[family], folder)
    for name in [name for name in changed if "layers.1." not in name]:
        weights = {key: value.clone() for key, value in changed.items()}
        value = weights[name].view(-1)[-7:-6]
        value += value.abs() / 50 + 1e-3
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert fingerprint(folder) != known, name


def test_every_place_counts() -> None:
    """Two values or two rows that change places are another model, in a large tensor, too."""
    words = torch.arange(200_000, dtype=torch.int64).view(1000, 200)
    known = {checksum("w", words), checksum("w", words.T), checksum("w", words.view(200, 1000))}
    for one, other in ((words[7, 3], words[7, 4]), (words[500], words[501])):
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
        known.add(checksum("w", words))
    assert len(known) == 5


def test_precision_quantisation_and_files_do_not_count(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    known = fingerprint(models["qwen2"])
    assert len(known) == 16
    assert fingerprint(models["qwen2"], dtype="bfloat16") == known
    assert fingerprint(models["qwen2"], quantization="nf4") == known
    folder = tmp_path / "divided"
    shutil.copytree(models["qwen2"], folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(models["qwen2"]).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert fingerprint(folder) == known


def test_random_weights_are_hashed_as_loaded(models: dict[str, Path]) -> None:
    def of_seed(seed: int) -> str:
        torch.manual_seed(seed)
        return fingerprint(models["qwen2"], random_weights=True)

    assert of_seed(1) == of_seed(1) != of_seed(2)


def test_the_packaged_model_has_a_fingerprint() -> None:
    assert fingerprint(ROOT / "sdar_pl" / "assets" / "tiny-household") == fingerprint(Path("tiny-household"))
