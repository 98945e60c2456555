"""``plan`` against a small model: byte for byte where tensors stand still, within 15 % where they come and go.

What comes and goes is measured at the allocator (torch.profiler's memory events), not with plan's own counter. The
resident set of a process would be no measure here: Python and its libraries take a hundred times what the model does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONFIGS
from helpers.plans import PROMPT, RESPONSE, ROWS, options
from torch.profiler import ProfilerActivity, profile

from sdar_pl.batch import Batch, Row, collate
from sdar_pl.engines import Request, Sampling, TransformersEngine
from sdar_pl.modeling.memory import optimizer_bytes
from sdar_pl.policy import LoRA, Policy
from sdar_pl.teachers import MovingAverage

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*", "ignore:Paged optimizers")


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
    attention = "prefix_tree" if kind == "tree" else "sdpa"
    quantization = {} if kind in (None, "tree") else {"quantization": kind}
    settings = {"dtype": dtype, "attention": attention, **quantization}
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
CHOSEN: dict[str, dict[str, Any]] = {"tree": {"attention": "prefix_tree"}, "folded": {"folded_lora": True}}
UPDATES = [
    pytest.param(None, "float32", False),
    pytest.param("nf4", "float32", True),
    pytest.param("tree", "float32", False),
    pytest.param("folded", "float32", False),
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
    chosen = CHOSEN.get(kind, {"quantization": kind}) if kind else {}
    settings = {"dtype": dtype, **chosen}
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
@pytest.mark.parametrize("kind", [None, "nf4", "folded"])
def test_a_rollout_within_15_percent(planned: Callable[..., dict[str, Any]], small: Path, kind: str | None) -> None:
    settings = CHOSEN.get(kind, {"quantization": kind}) if kind else {}
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


def test_auto_is_planned_at_its_most(planned: Callable[..., dict[str, Any]], small: Path) -> None:
    given = options(small) | {"data__micro_batch_tokens": 16384, "data__engine__max_rows": 256}
    auto = given | {"data__micro_batch_tokens": "auto", "data__engine__max_rows": "auto"}
    one, other = (planned("quickstart.yaml", **chosen) for chosen in (given, auto))
    assert one["peaks"] == other["peaks"]
