"""Log-probs in chunks, beside tests/test_policy.py: every gradient by itself, and how much memory they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdar_pl.modeling.logprobs import token_logprobs
from sdar_pl.modeling.memory import AllocationMeter


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_are_those_of_differences(part: int) -> None:
    """Of the log-probs alone, of the entropies alone, and of both."""
    torch.manual_seed(0)
    head = nn.Linear(4, 9).double()
    targets = torch.randint(9, (7,))

    def both(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        head.weight = weight  # type: ignore[assignment]
        found = token_logprobs(hidden, head, targets, temperature=0.7, entropy=True, chunk=3)[:2]
        return found if part == 2 else (found[part],)  # type: ignore[return-value]

    hidden = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    del head.weight
    assert torch.autograd.gradcheck(both, (hidden, torch.randn(9, 4, dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("k", [0, 1, 4, 9])
@pytest.mark.parametrize("entropy", [False, True])
def test_top_tokens_are_those_of_the_whole_vocabulary(k: int, entropy: bool) -> None:
    """Values and gradients of the targets, of the named tokens (a target may be one) and of the rest together."""
    torch.manual_seed(0)
    head, chosen = nn.Linear(4, 9).double(), torch.randn(7, 9).topk(k).indices
    hidden, targets = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.randint(9, (7,))
    found = token_logprobs(hidden, head, targets, temperature=0.7, entropy=entropy, top=chosen, chunk=3)
    logp = (head(hidden) / 0.7).log_softmax(-1)
    outside = torch.ones_like(logp, dtype=torch.bool).scatter(-1, chosen, False)
    rest = logp.masked_fill(~outside, -torch.inf).logsumexp(-1, keepdim=True)
    spread = -(logp.exp() * logp).sum(-1)
    plain = [logp.gather(-1, targets[:, None])[:, 0], spread, torch.cat([logp.gather(-1, chosen), rest], -1)]
    assert found.top is not None
    assert found.top.exp().sum(-1).tolist() == pytest.approx([1.0] * 7)
    if k == 9:
        assert (found.top[:, -1] == -torch.inf).all()
    kept = slice(0, k if k == 9 else k + 1)  # the log of nothing has no gradient in the plain computation
    pairs = [(found.values, plain[0]), (found.top[:, kept], plain[2][:, kept])]
    if found.entropy is not None:
        pairs.append((found.entropy, plain[1]))
    weights = [torch.randn(mine.shape).double() for mine, _ in pairs]
    ours, theirs = (sum((w * pair[side]).sum() for w, pair in zip(weights, pairs, strict=True)) for side in (0, 1))
    for mine, wanted in pairs:
        torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=0)
    inputs = [hidden, head.weight, head.bias]
    for mine, wanted in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=1e-10)
    alone = token_logprobs(hidden, head, targets, temperature=0.7, entropy=entropy, chunk=3)
    assert torch.equal(alone.values, found.values)


def test_the_likeliest_tokens() -> None:
    torch.manual_seed(0)
    head, hidden, targets = nn.Linear(4, 9), torch.randn(7, 4), torch.randint(9, (7,))
    for k in (1, 4, 9, 1000):
        found = token_logprobs(hidden, head, targets, top=k, chunk=3)
        wanted = head(hidden).log_softmax(-1).topk(min(k, 9))
        assert found.top is not None
        assert found.top_tokens is not None
        assert torch.equal(found.top_tokens, wanted.indices)
        torch.testing.assert_close(found.top[:, :-1], wanted.values)
    # The same tokens are looked at again later, and the same bits come out.
    again = token_logprobs(hidden, head, targets, top=found.top_tokens, chunk=3)
    assert again.top is not None
    assert torch.equal(again.top, found.top)


def test_a_rest_of_almost_nothing_is_exact() -> None:
    """In float32, 1 − Σ would be 0 or 6e-8; its logarithm and gradient are right to the last digits all the same."""
    logits = torch.tensor([[60.0, 20.0, -5.0, -30.0, -31.0]])
    wide = logits.double().requires_grad_()
    rest = wide.log_softmax(-1)[:, 3:].logsumexp(-1)
    thin = logits.clone().requires_grad_()
    found = token_logprobs(thin, nn.Identity(), torch.tensor([0]), top=torch.tensor([[0, 1, 2]]))
    assert found.top is not None
    torch.testing.assert_close(found.top[:, -1].double(), rest.detach(), atol=0, rtol=1e-6)
    (ours,), (theirs,) = torch.autograd.grad(found.top[:, -1].sum(), thin), torch.autograd.grad(rest.sum(), wide)
    torch.testing.assert_close(ours.double(), theirs, atol=0, rtol=1e-5)


@pytest.mark.parametrize(("entropy", "top"), [(False, 0), (True, 0), (False, 64), (True, 64)])
def test_memory_is_that_of_a_chunk(entropy: bool, top: int) -> None:
    """Forward and backward hold three [chunk, vocabulary] tensors at most (four with the entropy's own gradient or that
    of the top tokens), and what they return."""
    width, vocabulary, chunk = 8, 4096, 16
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    heights = []
    for tokens in (64, 256):
        hidden = torch.randn(tokens, width, requires_grad=True)
        targets = torch.randint(vocabulary, (tokens,))
        with AllocationMeter() as meter:
            named = torch.arange(top).expand(tokens, top) if top else None
            found = token_logprobs(hidden, head, targets, entropy=entropy, top=named, chunk=chunk)
            sum(part.sum() for part in found[:3] if part is not None).backward()  # type: ignore[union-attr]
        # The log-probs of the top tokens are the caller's, of all chunks and with gradients: a vocabulary dwarfs them.
        heights.append(meter.peak - 4 * tokens * 3 * top)
    one = 4 * chunk * vocabulary
    assert max(heights) <= (4.5 if entropy or top else 3.5) * one
    assert heights[1] - heights[0] < 0.5 * one


def test_half_precision_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(16, 5000).bfloat16(), torch.randn(9, 16).bfloat16()
    targets = torch.randint(5000, (9,))
    values, entropies, *_ = token_logprobs(hidden, head, targets, entropy=True, chunk=4)
    exact = head(hidden).double().log_softmax(-1)
    assert values.dtype == torch.float32
    assert torch.allclose(values.double(), exact.gather(-1, targets[:, None])[:, 0], atol=1e-5)
    assert entropies is not None
    assert torch.allclose(entropies.double(), -(exact.exp() * exact).sum(-1), atol=1e-5)
