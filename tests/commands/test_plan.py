"""``plan`` against a small model: byte for byte where tensors stand still, within 15 % where they come and go.

What comes and goes is measured at the allocator (torch.profiler's memory events), not with plan's own counter. The
resident set of a process would be no measure here: Python and its libraries take a hundred times what the model does.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONFIGS
from helpers.models import make_model
from jsonargparse import Namespace
from torch.profiler import ProfilerActivity, profile

from sdar_pl.batch import Batch, Row, collate
from sdar_pl.cli import main
from sdar_pl.commands.plan import layout
from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.modeling.architectures import KNOWN, known
from sdar_pl.modeling.memory import optimizer_bytes
from sdar_pl.policy import LoRA, Policy
from sdar_pl.teachers import MovingAverage

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*", "ignore:Paged optimizers")
PROMPT, RESPONSE, ROWS = 448, 64, 4
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


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """``plan --json`` of a config with options."""

    def call(*configs: str, **options: Any) -> dict[str, Any]:
        words = [f"--{name.replace('__', '.')}={value}" for name, value in options.items()]
        assert main(["plan", *(f"--config={CONFIGS / config}" for config in configs), *words, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that tensors of a few kilobytes do not matter, and with more layers than plan measures."""
    folder = tmp_path_factory.mktemp("small")
    make_model(folder, "qwen2", vocab_size=8192, hidden_size=128, intermediate_size=512, num_hidden_layers=5)
    return folder


def options(folder: Path, **policy: Any) -> dict[str, Any]:
    """For ``planned``: rows of 448 + 64 tokens, four in a micro-batch, 32 in a rollout."""
    return {
        "model__policy__model": folder,
        **{f"model__policy__{name}": value for name, value in policy.items()},
        "data__micro_batch_tokens": ROWS * (PROMPT + RESPONSE),
        "data__prompter__history": "windowed",
        "data__prompter__max_prompt_tokens": PROMPT,
        "data__sampling__max_new_tokens": RESPONSE,
        "data__engine__max_rows": 32,
        "data__engine__prefill_tokens": ROWS * PROMPT,
    }


def allocated(work: Callable[[], Any]) -> int:
    """Height of what the allocator hands out on top of what is there already."""
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def a_batch() -> Batch:
    """One token of padding, so that there is an attention mask, as there is in practice."""
    rows = []
    for number in range(ROWS):
        prompt = PROMPT - (number == 0)
        tokens = np.random.default_rng(number).integers(5, 300, prompt + RESPONSE).tolist()
        rows.append(Row(0, 0, tokens, list(range(prompt, prompt + RESPONSE)), [0] * RESPONSE, [0.0] * RESPONSE))
    return collate(rows)


# ---------------------------------------------------------------------- what stands still


def tensor_bytes(policy: Policy) -> tuple[int, int]:
    """(base, adapters): every tensor that the model holds, those inside quantised weights included."""
    base = adapters = 0
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            adapters += parameter.nbytes
            continue
        base += parameter.nbytes
        if state := getattr(parameter, "quant_state", None):
            parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            base += sum(part.nbytes for part in parts)
        if (scale := getattr(parameter, "SCB", None)) is not None:
            base += scale.nbytes
    return base, adapters


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "dtype"), [(None, "float32"), ("nf4", "bfloat16"), ("int8", "float32")])
def test_weights_and_adapters_to_the_byte(
    planned: Callable[..., dict[str, Any]], models: dict[str, Path], family: str, kind: str | None, dtype: str
) -> None:
    settings = {"dtype": dtype, **({"quantization": kind} if kind else {})}
    plan = planned("quickstart.yaml", **options(models[family], **settings))
    policy = Policy(str(models[family]), LoRA(), **settings)  # type: ignore[arg-type]
    policy.build()
    assert (plan["fixed"]["weights"], plan["fixed"]["adapters"]) == tensor_bytes(policy)
    assert plan["update"]["gradients"] == plan["fixed"]["adapters"]
    assert plan["trained"] == sum(p.numel() for p in policy.parameters() if p.requires_grad)


OPTIMIZERS = ["torch.optim.AdamW", "torch.optim.SGD", "bitsandbytes.optim.PagedAdamW8bit", "torch.optim.Adafactor"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_to_the_byte(small: Path, name: str) -> None:
    module, kind = name.rsplit(".", 1)
    make = partial(getattr(importlib.import_module(module), kind), lr=1e-3)
    policy = Policy(str(small), LoRA())
    policy.build()
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = make(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert optimizer_bytes(make, trained) == sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def test_a_moving_average_takes_as_much_as_it_averages(
    planned: Callable[..., dict[str, Any]], models: dict[str, Path]
) -> None:
    chosen = options(models["qwen2"])
    fixed = planned("quickstart.yaml", **chosen, model__teacher="sdar_pl.teachers.MovingAverage")["fixed"]
    policy, teacher = Policy(str(models["qwen2"]), LoRA()), MovingAverage()
    policy.build()
    teacher.begin(policy)
    assert fixed["teacher's average"] == sum(mean.nbytes for mean in teacher._means.values())
    assert "teacher's average" not in planned("quickstart.yaml", **chosen)["fixed"]


# ---------------------------------------------------------------------- what comes and goes


SLOW = pytest.mark.slow
UPDATES = [
    pytest.param(None, "float32", False),
    pytest.param("nf4", "float32", True),
    pytest.param(None, "float32", True, marks=SLOW),
    pytest.param(None, "bfloat16", False, marks=SLOW),
    pytest.param(None, "bfloat16", True, marks=SLOW),
    pytest.param("nf4", "float32", False, marks=SLOW),
    pytest.param("int8", "float32", True, marks=SLOW),
    pytest.param("int8", "float32", False, marks=SLOW),
]


@pytest.mark.parametrize(("kind", "dtype", "checkpointing"), UPDATES)
def test_an_update_within_15_percent(
    planned: Callable[..., dict[str, Any]], small: Path, kind: str | None, dtype: str, checkpointing: bool
) -> None:
    settings = {"dtype": dtype, **({"quantization": kind} if kind else {})}
    words = {**settings, "gradient_checkpointing": str(checkpointing).lower()}
    plan = planned("quickstart.yaml", **options(small, **words))
    policy = Policy(str(small), LoRA(), gradient_checkpointing=checkpointing, **settings)  # type: ignore[arg-type]
    policy.build()
    batch = a_batch()

    def update() -> None:
        values = policy.logprobs(batch, entropy=True).values
        values.sum().backward()

    update()  # afterwards gradients are there, as plan counts them
    wanted = plan["peaks"]["update"] - sum(plan["fixed"].values()) - plan["update"]["gradients"]
    assert allocated(update) == pytest.approx(wanted, rel=0.15)


@pytest.mark.slow
def test_the_teachers_likeliest_tokens_take_room(planned: Callable[..., dict[str, Any]], small: Path) -> None:
    config = {"config": CONFIGS / "objectives" / "sdar_js.yaml", **options(small, gradient_checkpointing="true")}
    estimator = "model__objective__init_args__distillation__init_args__estimator__init_args__k"
    policy, batch = Policy(str(small), LoRA(), gradient_checkpointing=True), a_batch()
    policy.build()
    before = planned("quickstart.yaml", **options(small, gradient_checkpointing="true"))["update"]["logits chunk"]
    for k in (64, 512):
        plan = planned("quickstart.yaml", **config, **{estimator: k})
        named = torch.arange(k).expand(*batch.mask.shape, -1)

        def update(named: torch.Tensor = named) -> None:
            found = policy.logprobs(batch, entropy=True, top=named)
            assert found.top is not None
            (found.values.sum() + found.top.sum()).backward()

        update()
        wanted = plan["peaks"]["update"] - sum(plan["fixed"].values()) - plan["update"]["gradients"]
        assert allocated(update) == pytest.approx(wanted, rel=0.15)
        assert plan["update"]["logits chunk"] > before
        before = plan["update"]["logits chunk"]


@SLOW
@pytest.mark.parametrize("kind", [None, "nf4"])
def test_a_rollout_within_15_percent(planned: Callable[..., dict[str, Any]], small: Path, kind: str | None) -> None:
    settings = {"quantization": kind} if kind else {}
    plan = planned("quickstart.yaml", **options(small, **settings))
    policy = Policy(str(small), LoRA(), **settings)  # type: ignore[arg-type]
    policy.build()
    engine = TransformersEngine(max_rows=32, prefill_tokens=ROWS * PROMPT)
    engine.sync(policy)
    prompts = [np.random.default_rng(i).integers(5, 300, PROMPT).tolist() for i in range(32)]
    requests = [Request(i, prompt, np.random.default_rng(i), keep=False) for i, prompt in enumerate(prompts)]
    wanted = plan["peaks"]["rollout"] - sum(plan["fixed"].values())
    assert allocated(lambda: engine.generate(requests, Sampling(max_new_tokens=RESPONSE))) == pytest.approx(
        wanted, rel=0.15
    )


def test_the_cache_to_the_byte(planned: Callable[..., dict[str, Any]], models: dict[str, Path]) -> None:
    """Of a conversation, whose sessions keep theirs: 96 of them, though 32 are played at a time."""
    plan = planned("quickstart.yaml", **{**options(models["qwen3"]), "data__prompter__history": "conversation"})
    a_token = 2 * 2 * 2 * 16 * 4  # keys and values, two layers, two heads, 16 numbers of four bytes
    assert plan["rollout"]["KV cache"] == 96 * (PROMPT + RESPONSE + 64) * a_token


# ---------------------------------------------------------------------- from the configuration alone


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
