"""Decoding in slots, on a CPU: the steps that a GPU replays as graphs (tests/test_gpu.py)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines.test_transformers import start
from helpers.engine_contract import HOT, ask, prompt
from helpers.models import quick_to_end, shake

from sdar_pl.engines import Sampling
from sdar_pl.engines.kv import Block
from sdar_pl.engines.slots import SlotPool, slot_columns
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import AllocationMeter
from sdar_pl.policy import Policy

MakePolicy = Callable[..., Policy]


def test_slots_are_filled_again(make_policy: MakePolicy) -> None:
    """With fewer slots than requests, a response begins as soon as a quarter has ended; tokens are those without."""
    policy = quick_to_end(make_policy())
    sampling = Sampling(temperature=1.5, max_new_tokens=60)
    prompts = [prompt(n, 5 + n) for n in range(16)]
    engine = start(policy, slots=True, max_rows=4)
    steps: list[int] = []
    policy.causal_lm.register_forward_pre_hook(
        lambda _, __, options: steps.append(len(options["input_ids"])) if options["input_ids"].shape[1] == 1 else None,
        with_kwargs=True,
    )
    answers = engine.generate(ask(prompts), sampling)
    lengths = [len(answer.tokens) for answer in answers]
    assert set(steps) == {1, 2, 4}, "rows that nobody needs any more are given up"
    assert len(steps) < sum(max(lengths[n : n + 4]) - 1 for n in range(0, 16, 4)), "no slot waits for the others"
    without = start(policy, max_rows=4).generate(ask(prompts), sampling)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in without]


def test_slots_grow_with_the_episode_and_go_with_it(make_policy: MakePolicy) -> None:
    """Later turns need wider slots; what sessions keep moves into them, and the last release frees everything."""
    policy = make_policy()
    engine = start(policy, slots=True)
    contexts = [prompt(n, 240 + n) for n in range(3)]
    with AllocationMeter() as meter:
        for turn in range(3):
            answers = engine.generate(ask(contexts), HOT)
            contexts = [c + a.tokens + prompt(turn, 90) for c, a in zip(contexts, answers, strict=True)]
        assert engine.prefilled == sum(240 + n for n in range(3)) + 2 * 3 * (1 + 90)
        engine.release([0, 1])
        assert meter.now > 0
        engine.release([2])
        assert meter.now == 0
        engine.generate(ask(contexts), HOT)  # whoever forgets to release them
        engine.sync(policy)
        engine.generate(ask(contexts[:1], first=9), HOT)
        engine.release([9])
        assert meter.now == 0


@pytest.mark.parametrize(
    ("columns", "width"), [(1, 256), (256, 256), (257, 320), (449, 512), (1500, 1536), (1537, 1792)]
)
def test_few_widths(columns: int, width: int) -> None:
    assert slot_columns(columns) == width


def test_slots_need_a_mask(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.attention = "flash_attention_2"
    with pytest.raises(UserError, match=r"^data.engine.slots: true; flash_attention_2 takes no mask"):
        start(policy, slots=True)


def test_larger_slots_have_graphs_in_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of graphs is gone with the last of them, and so is its handle: capturing into it is an error of CUDA."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    pool = SlotPool(lambda *_: torch.empty(0), most=8)
    tokens: Any = SimpleNamespace(is_cuda=True)
    block = Block([(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))], tokens)
    small, same, large = (pool.slots(1, width, block) for width in (256, 256, 320))
    assert same is small
    assert None not in (small.pool, large.pool)
    assert large.pool is not small.pool
    assert pool.slots(1, 256, block).pool is large.pool


def follow_the_weights(policy: Policy, mixed: bool) -> None:
    """Log-probs are those of a plain forward pass with the weights of now, under autocast, too."""
    contexts = [prompt(n, 20 + n) for n in range(5)]
    engine = start(policy, slots=True)
    for seed in range(3):
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=mixed):
            engine.sync(policy)
            completions = engine.generate(ask(contexts, first=10 * seed), HOT)
            for tokens, one in zip(contexts, completions, strict=True):
                whole = torch.tensor([[*tokens, *one.tokens]], device=policy.device)
                with policy.evaluating():
                    logits = policy.causal_lm(whole).logits[0, len(tokens) - 1 : -1].float() / HOT.temperature
                theirs = logits.log_softmax(-1).gather(-1, whole[0, len(tokens) :, None])[:, 0].cpu()
                assert (torch.tensor(one.logprobs) - theirs).abs().mean() < (0.05 if mixed else 1e-5)
        shake(policy, 7 + seed)


@pytest.mark.parametrize("mixed", [False, True])
def test_slots_follow_the_weights(make_policy: MakePolicy, mixed: bool) -> None:
    follow_the_weights(make_policy(), mixed)
