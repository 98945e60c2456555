"""Models, tokenizers and options that the policy refuses, each with a clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers.builders import a_row
from helpers.models import make_model

from sdar_pl.batch import collate
from sdar_pl.errors import UserError
from sdar_pl.policy import ASSETS, LoRA, ModelSource, Policy

MakePolicy = Callable[..., Policy]


def damaged(models: dict[str, Path], folder: Path, file: str, change: Callable[[bytes], bytes | None]) -> str:
    shutil.copytree(models["qwen2"], folder, dirs_exist_ok=True)
    content = change((folder / file).read_bytes())
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.safetensors", lambda content: None, "no file named model.safetensors"),
        ("model.safetensors", lambda content: content[:-40], "incomplete"),
        ("model.safetensors", lambda content: b"x" * 400, "header"),
        ("config.json", lambda content: b"{", "config.json"),
        ("config.json", lambda content: b"{}", "model_type"),
        ("config.json", lambda content: None, "holds no config.json"),
        ("config.json", lambda content: content.replace(b'"hidden_size": 32', b'"hidden_size": 64'), "mismatch"),
        ("tokenizer.json", lambda content: None, "tokenizer"),
        ("tokenizer.json", lambda content: b"{", "no readable tokenizer"),
        ("chat_template.jinja", lambda content: None, "chat template"),
    ],
)
def test_damaged_folders(models: dict[str, Path], tmp_path: Path, file: str, change: Any, words: str) -> None:
    name = damaged(models, tmp_path / "m", file, change)
    with pytest.raises(UserError, match=rf"^model\.policy\.model: (.|\n)*({words})"):
        Policy(name).build()


def test_weights_that_lack_layers_are_not_filled_up_at_random(tmp_path: Path) -> None:
    make_model(tmp_path / "one", "qwen2", num_hidden_layers=1)
    make_model(tmp_path / "two", "qwen2", num_hidden_layers=2)
    shutil.copy(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors")
    with pytest.raises(UserError, match=r"lack 12 of the model's tensors \(model\.layers\.1\."):
        Policy(str(tmp_path / "two")).build()


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    make_model(tmp_path, "qwen2", vocab_size=292)
    with pytest.raises(UserError, match="do not belong together"):
        Policy(str(tmp_path)).build()


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "", "skills", "~/nowhere"])
def test_missing_folders(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.policy\.model: no folder .*packaged"):
        Policy(name)


def test_a_hub_name_without_a_network() -> None:
    with pytest.raises(UserError, match=r"the hub cannot be reached .*hf download nobody/nothing"):
        Policy("nobody/nothing")


def test_a_cached_model_needs_no_network(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "models--some--body"
    shutil.copytree(models["qwen2"], cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert ModelSource("some/body").located() == str(cache / "snapshots" / "abc")
    Policy("some/body").build()


def test_a_model_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    def unknown(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError("401", response=mock.Mock(headers={}))

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unknown)
    with pytest.raises(UserError, match="the hub has no model 'some/where' that you may read"):
        Policy("some/where")


def test_resolving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSource("owner/name").resolve() == "owner/name"
    (tmp_path / "config.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    assert ModelSource(".").resolve() == "."
    monkeypatch.chdir(ASSETS)
    with pytest.raises(UserError, match=r"config\.json"):
        ModelSource("skills").resolve()


def test_target_modules_that_match_nothing(models: dict[str, Path]) -> None:
    policy = Policy(str(models["qwen2"]), LoRA(target_modules=["query"]))
    with pytest.raises(UserError, match=r"target_modules.*query.*down_proj, gate_proj.*v_proj"):
        policy.build()


@pytest.mark.parametrize(
    ("options", "key"),
    [({"quantization": "nf4"}, "quantization"), ({"logits_chunk": 0}, "logits_chunk")],
)
def test_bad_options(models: dict[str, Path], options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"model\.policy\.{key}"):
        Policy(str(models["qwen2"]), **options)


@pytest.mark.parametrize("options", [{"r": 0}, {"dropout": 2.0}], ids=str)
def test_bad_adapters(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"model\.policy\.lora\.{next(iter(options))}: "):
        LoRA(**options)


def test_no_reference_without_adapters(make_policy: MakePolicy) -> None:
    policy = make_policy(lora=False)
    with pytest.raises(UserError, match="reference_coefficient"), policy.reference():
        pass


def test_rows_longer_than_the_model_reads(make_policy: MakePolicy) -> None:
    policy = make_policy()
    with torch.no_grad():
        policy.logprobs(collate([a_row(0, 2048, [(2, 4)])]))
        with pytest.raises(UserError, match="2049 tokens"):
            policy.logprobs(collate([a_row(0, 2049, [(2, 4)])]))


def test_models_that_rework_their_logits_are_refused() -> None:
    from types import SimpleNamespace

    from sdar_pl.modeling.sources import refuse_scaled_logits

    refuse_scaled_logits(SimpleNamespace(final_logit_softcapping=None, logit_scale=1.0))
    for wrong in ({"final_logit_softcapping": 30.0}, {"logit_scale": 0.06}, {"logits_scaling": 8.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            refuse_scaled_logits(SimpleNamespace(**wrong))
