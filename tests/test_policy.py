"""The policy: three views of one set of weights, and log-probs at response positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.builders import a_batch, a_row
from helpers.models import make_tokenizer
from torch import Tensor, nn

from sdar_pl.batch import Batch, collate
from sdar_pl.modeling.logprobs import token_logprobs
from sdar_pl.policy import LoRA, Policy

MakePolicy = Callable[..., Policy]


def gradients(policy: Policy, batch: Batch, **options: Any) -> dict[str, Tensor]:
    policy.zero_grad()
    values, entropy, *_ = policy.logprobs(batch, entropy=True, **options)
    assert entropy is not None
    (values.sum() + entropy.square().sum()).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------------- log-probs


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_logprobs_are_those_of_the_whole_logits(make_policy: MakePolicy, family: str, temperature: float) -> None:
    policy, batch = make_policy(family), a_batch()
    values, entropy, *_ = policy.logprobs(batch, temperature=temperature, entropy=True)
    assert entropy is not None
    values, entropy = values.detach(), entropy.detach()
    assert values.dtype == entropy.dtype == torch.float32
    for b, count in enumerate([20, 3, 0]):
        length = int(batch.attention[b].sum())
        with torch.no_grad():  # alone and unpadded
            logits = policy.causal_lm(batch.tokens[b : b + 1, :length]).logits[0].double() / temperature
        logp = logits.log_softmax(-1)
        for r in range(count):
            position = int(batch.positions[b, r])
            before = logp[position - 1]
            assert values[b, r] == pytest.approx(float(before[batch.tokens[b, position]]), abs=2e-5)
            assert entropy[b, r] == pytest.approx(float(-(before.exp() * before).sum()), abs=2e-5)
        assert (values[b, count:] == 0).all()
        assert (entropy[b, count:] == 0).all()
    assert policy.logprobs(batch, temperature=temperature)[1] is None


def test_what_is_masked_has_no_gradient(make_policy: MakePolicy) -> None:
    """Neither the prompt's own log-probs nor padding: only what a response token depends on."""
    policy, batch = make_policy(), a_batch()
    values = policy.logprobs(batch).values
    masked = (values * (1 - batch.mask)).sum()
    assert masked == 0
    masked.backward(retain_graph=True)
    assert all((p.grad == 0).all() for p in policy.parameters() if p.grad is not None)
    # Tokens behind the last response and those of the blank row change nothing.
    other = replace(batch, tokens=batch.tokens.clone())
    other.tokens[1, 12:] = 3
    other.tokens[2, :] = 3
    torch.testing.assert_close(policy.logprobs(other)[0], values)
    other.tokens[1, 5] = 3
    assert (policy.logprobs(other)[0][1, :3] - values[1, :3]).abs().min() > 1e-3


def test_a_batch_of_nothing_still_has_a_graph(make_policy: MakePolicy) -> None:
    """Ranks with a blank micro-batch take part in backward like all others."""
    policy = make_policy()
    values, entropy, *_ = policy.logprobs(collate([a_row(2, 2, [])]), entropy=True)
    assert entropy is not None
    assert values.shape == entropy.shape == (1, 0)
    values.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in policy.parameters() if p.requires_grad)


@pytest.mark.parametrize("k", [3, 100_000])
def test_top_tokens_stand_at_their_places(make_policy: MakePolicy, k: int) -> None:
    policy, batch = make_policy(logits_chunk=4), a_batch()
    found = policy.logprobs(batch, temperature=0.7, top=k)
    words = policy.causal_lm.config.vocab_size
    assert found.top is not None
    assert found.top_tokens is not None
    assert found.top_tokens.shape == (3, 20, min(k, words))
    for b, r in [(0, 0), (0, 19), (1, 2)]:
        position = int(batch.positions[b, r])
        length = int(batch.attention[b].sum())
        logits = policy.causal_lm(batch.tokens[b : b + 1, :length]).logits[0, position - 1]
        wanted = (logits / 0.7).log_softmax(-1).topk(min(k, words))
        torch.testing.assert_close(found.top[b, r, :-1], wanted.values, atol=2e-5, rtol=0)
    assert (found.top[batch.mask == 0] == 0).all()
    again = policy.logprobs(batch, temperature=0.7, top=found.top_tokens)
    assert again.top is not None
    assert torch.equal(again.top, found.top)
    assert torch.equal(again.values, policy.logprobs(batch, temperature=0.7).values)
    nothing = policy.logprobs(collate([a_row(2, 2, [])]), top=torch.zeros(1, 0, 3).long()).top
    assert nothing is not None
    nothing.sum().backward()  # a blank micro-batch takes part like all others
    assert all(p.grad is not None and (p.grad == 0).all() for p in policy.parameters() if p.requires_grad)


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 1000])
@pytest.mark.parametrize("entropy", [False, True])
def test_chunks_change_nothing(chunk: int, entropy: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(6, 11).double()
    hidden = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    targets, weights, more = torch.randint(11, (8,)), torch.randn(8).double(), torch.randn(8).double()
    values, spreads, *_ = token_logprobs(hidden, head, targets, temperature=0.7, entropy=entropy, chunk=chunk)
    logp = (head(hidden) / 0.7).log_softmax(-1)
    plain = logp[torch.arange(8), targets]
    total, wanted = (values * weights).sum(), (plain * weights).sum()
    torch.testing.assert_close(values, plain, atol=1e-12, rtol=0)
    if spreads is not None:
        spread = -(logp.exp() * logp).sum(-1)
        torch.testing.assert_close(spreads, spread, atol=1e-12, rtol=0)
        total, wanted = total + (spreads * more).sum(), wanted + (spread * more).sum()
    assert (spreads is not None) is entropy
    inputs = [hidden, head.weight, head.bias]
    for ours, theirs in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_no_chunk_of_logits_is_larger_than_asked(make_policy: MakePolicy) -> None:
    policy, sizes = make_policy(logits_chunk=4), list[int]()
    head = policy.causal_lm.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[:-1].numel()))
    whole = make_policy(logits_chunk=1000).logprobs(a_batch())[0]
    torch.testing.assert_close(policy.logprobs(a_batch())[0], whole)
    hook.remove()
    # 23 response tokens in 6 pieces. (The head's own ``forward`` stands aside while hidden states are made.)
    assert sizes[-6:] == [4] * 5 + [3]


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(make_policy: MakePolicy, lora: bool) -> None:
    plain, saving = make_policy(lora=lora), make_policy(lora=lora, gradient_checkpointing=True)
    assert saving.causal_lm.is_gradient_checkpointing
    ours, theirs = gradients(saving, a_batch()), gradients(plain, a_batch())
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient)


def test_log_probs_under_bfloat16_are_float32(make_policy: MakePolicy) -> None:
    policy = make_policy(dtype="bfloat16")
    values = policy.logprobs(a_batch()).values
    assert values.dtype == torch.float32
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    torch.testing.assert_close(values, make_policy().logprobs(a_batch())[0], atol=0.5, rtol=0)


# ---------------------------------------------------------------------- views


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_reference_is_the_model_without_adapters(make_policy: MakePolicy, family: str) -> None:
    policy, base, batch = make_policy(family), make_policy(family, lora=False), a_batch()
    trainable = [name for name, p in policy.named_parameters() if p.requires_grad]
    with torch.no_grad():
        student = policy.logprobs(batch)[0]
        with policy.reference():
            reference = policy.logprobs(batch)[0]
        assert torch.equal(reference, base.logprobs(batch)[0])
        assert (reference - student).abs().max() > 0.1
        assert torch.equal(policy.logprobs(batch)[0], student)
        with pytest.raises(ZeroDivisionError), policy.reference():
            raise ZeroDivisionError
        assert torch.equal(policy.logprobs(batch)[0], student), "adapters are back after an error, too"
    assert [name for name, p in policy.named_parameters() if p.requires_grad] == trainable
    assert all("lora_" in name for name in trainable)


def test_teacher_and_student_agree_on_equal_contexts(make_policy: MakePolicy) -> None:
    policy, batch = make_policy(), a_batch()
    policy.train()
    student = policy.logprobs(batch).values
    with policy.whole():
        teacher = policy.logprobs(batch).values
    assert torch.equal(student.detach(), teacher)
    assert student.requires_grad
    assert not teacher.requires_grad
    assert policy.training


def test_rollout_restores_what_it_changed(make_policy: MakePolicy) -> None:
    policy = make_policy()
    for mode in (True, False):
        policy.train(mode)
        with policy.whole():
            assert not policy.training
            assert not policy.causal_lm.training
            assert not torch.is_grad_enabled()
        assert policy.training is policy.causal_lm.training is mode
        with pytest.raises(ZeroDivisionError), policy.whole():
            raise ZeroDivisionError
        assert policy.training is policy.causal_lm.training is mode
    assert torch.is_grad_enabled()


def test_hidden_leaves_the_output_layer_as_it_was(make_policy: MakePolicy) -> None:
    policy = make_policy()
    head, ids = policy.causal_lm.get_output_embeddings(), torch.tensor([[5, 6, 7]])
    before = policy.causal_lm(ids).logits
    states, _ = policy.hidden(input_ids=ids)
    assert states.shape == (1, 3, 32)
    assert torch.equal(head(states), before)
    with pytest.raises(TypeError):
        policy.hidden(nonsense=ids, input_ids="x")
    assert "forward" not in vars(head)


def test_build_is_idempotent(make_policy: MakePolicy) -> None:
    policy = make_policy()
    net = policy.net
    policy.build()
    assert policy.net is net
    assert policy.training, "from_pretrained leaves a model in eval mode"


def test_adapters_at_the_start_change_nothing(models: dict[str, Path]) -> None:
    policy = Policy(str(models["qwen2"]), LoRA())
    policy.build()
    with torch.no_grad():
        student = policy.logprobs(a_batch())[0]
        with policy.reference():
            assert torch.equal(policy.logprobs(a_batch())[0], student)


def test_random_weights(make_policy: MakePolicy) -> None:
    base, random = make_policy(lora=False), make_policy(lora=False, random_weights=True)
    ours, theirs = dict(base.named_parameters()), dict(random.named_parameters())
    assert ours.keys() == theirs.keys()
    name = "net.model.layers.0.mlp.up_proj.weight"
    assert ours[name].shape == theirs[name].shape
    assert not torch.equal(ours[name], theirs[name])


def test_the_tokenizer_is_the_one_that_was_saved(make_policy: MakePolicy) -> None:
    """Not Qwen2's own with this vocabulary, which AutoTokenizer makes of it and which splits digits apart."""
    ours, saved = make_policy(lora=False).tokenizer, make_tokenizer()
    text = "go to shelf 12, it's\n  Ω <action>take</action><|end|>"
    assert ours.encode(text) == saved.encode(text)
    assert len(ours.encode(" 1")) == 1
    assert len(ours) == len(saved)
    assert ours.chat_template == saved.chat_template
    assert (ours.eos_token, ours.pad_token) == ("<|end|>", "<|pad|>")
