"""``plan`` from a configuration alone: parameters of known models, shipped configs, ranks, the table, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CONFIGS
from helpers.plans import options
from jsonargparse import Namespace

from sdar_pl.cli import main
from sdar_pl.commands.plan import layout
from sdar_pl.modeling.architectures import KNOWN, known

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*", "ignore:Paged optimizers")
#: as public model cards give them
PARAMETERS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
}
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_their_parameters(name: str) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(known(name))
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]


GIGA = 2**30
ONE_24GB = ("household/sdar.yaml", "hardware/one_24gb.yaml")
ONE_12GB = ("household/sdar.yaml", "models/qwen3_1.7b.yaml", "hardware/one_12gb.yaml")
EIGHT_80GB = ("household/sdar.yaml", "models/qwen2.5_7b.yaml", "hardware/eight_80gb.yaml")


@pytest.mark.parametrize(
    ("configs", "model", "trained", "memory"),
    [
        (ONE_24GB, "Qwen/Qwen2.5-3B-Instruct", 59_867_136, 12 * GIGA),
        (ONE_12GB, "Qwen/Qwen3-1.7B", 34_865_152, 10 * GIGA),
        (EIGHT_80GB, "Qwen/Qwen2.5-7B-Instruct", 161_480_704, 24 * GIGA),
    ],
)
def test_a_gpu_config_is_parsed_built_on_meta_tensors_and_fits(
    planned: Callable[..., dict[str, Any]], configs: tuple[str, ...], model: str, trained: int, memory: int
) -> None:
    plan = planned(*configs)
    assert (plan["model"], plan["trained"]) == (model, trained)
    assert plan["parameters"] == PARAMETERS[model] + trained
    assert 0 < plan["peaks"]["total"] < memory


@SLOW
@pytest.mark.parametrize("size", ["3B", "7B"])
def test_qlora_fits_the_card_it_is_meant_for(planned: Callable[..., dict[str, Any]], size: str) -> None:
    """The aim, in theory: 3B in 12 GiB and 7B in 20 GiB, for one group of 8 and 2,048 + 512 tokens.

    scripts/bench_gpu.py measures it on a card."""
    plan = planned(
        *ONE_24GB,
        model__policy__model=f"Qwen/Qwen2.5-{size}-Instruct",
        data__prompter__max_prompt_tokens=2048,
        data__engine__max_rows=8,
        data__micro_batch_tokens=10240,
    )
    assert plan["peaks"]["total"] < {"3B": 12, "7B": 20}[size] * GIGA


@SLOW
def test_fsdp_divides_what_it_shards(planned: Callable[..., dict[str, Any]]) -> None:
    eight, one = planned(*EIGHT_80GB), planned(*EIGHT_80GB, trainer__devices=1, trainer__strategy="auto")
    assert (eight["ranks"], eight["shards"], one["shards"]) == (8, 8, 1)
    assert eight["fixed"] == {name: size // 8 for name, size in one["fixed"].items()}
    whole = one["fixed"]["weights"] + one["fixed"]["adapters"]
    assert eight["rollout"]["gathered weights"] == whole
    assert 0 < eight["update"]["gathered layers"] < whole / 2


PARALLEL = {
    "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
    "init_args": Namespace(data_parallel_size=4),
}
OURS = {"class_path": "sdar_pl.runtime.strategy.FSDP2Strategy", "init_args": Namespace(data_parallel_size="auto")}


@pytest.mark.parametrize(
    ("devices", "nodes", "strategy", "expected"),
    [
        (1, 1, "auto", (1, 1)),
        ("auto", 1, "auto", (1, 1)),
        ("0,2,3", 1, "ddp", (3, 1)),
        ([0, 1], 2, "ddp", (4, 1)),
        ("8", 1, "fsdp2", (8, 8)),
        (4, 2, "fsdp2", (8, 8)),
        (8, 1, Namespace(**PARALLEL), (8, 4)),
        (4, 2, Namespace(**OURS), (8, 8)),
    ],
)
def test_ranks_and_shards(devices: Any, nodes: int, strategy: Any, expected: tuple[int, int]) -> None:
    trainer = Namespace(devices=devices, num_nodes=nodes, strategy=strategy, accelerator="cpu")
    assert layout(trainer) == expected


def test_the_table_names_all_parts(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{name.replace('__', '.')}={value}" for name, value in options(small).items()]
    assert main(["plan", f"--config={CONFIGS}/quickstart.yaml", *words]) == 0
    table = capsys.readouterr().out
    for word in (
        "parameters",
        "of them trained (",
        "weights",
        "optimizer",
        "KV cache",
        "activations",
        "logits chunk",
    ):
        assert word in table
    assert "with gradient checkpointing" in table


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"model__policy__model": "nobody/nothing"},
            "model.policy.model: the hub cannot be reached",
        ),
        ({"model__policy__model": "./missing"}, "model.policy.model: no folder './missing'"),
        ({"model__policy__lora__target_modules": "[query]"}, "its linear layers are down_proj, gate_proj"),
        ({"data__group_sise": 4}, "group_sise"),
    ],
)
def test_bad_input_is_one_line(words: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--{name.replace('__', '.')}={value}" for name, value in words.items()]
    assert main(["plan", "--config", str(CONFIGS / "household" / "sdar.yaml"), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("error: ")
    assert message in line
