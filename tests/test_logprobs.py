"""Log-probs in chunks, beside tests/test_policy.py: every gradient by itself, and how much memory they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdar_pl.logprobs import token_logprobs
from sdar_pl.memory import Live


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_are_those_of_differences(part: int) -> None:
    """Of the log-probs alone, of the entropies alone, and of both."""
    torch.manual_seed(0)
    head = nn.Linear(4, 9).double()
    targets = torch.randint(9, (7,))

    def both(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        head.weight = weight  # type: ignore[assignment]
        found = token_logprobs(hidden, head, targets, temperature=0.7, entropy=True, chunk=3)
        return found if part == 2 else (found[part],)  # type: ignore[return-value]

    hidden = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    del head.weight
    assert torch.autograd.gradcheck(both, (hidden, torch.randn(9, 4, dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("entropy", [False, True])
def test_memory_is_that_of_a_chunk(entropy: bool) -> None:
    """Forward and backward hold three [chunk, vocabulary] tensors at most (four with the entropy's own gradient)."""
    width, vocabulary, chunk = 8, 4096, 16
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    heights = []
    for tokens in (64, 256):
        hidden = torch.randn(tokens, width, requires_grad=True)
        targets = torch.randint(vocabulary, (tokens,))
        with Live() as live:
            values, spreads = token_logprobs(hidden, head, targets, entropy=entropy, chunk=chunk)
            (values.sum() + (spreads.sum() if spreads is not None else 0.0)).backward()
        heights.append(live.peak)
    one = 4 * chunk * vocabulary
    assert max(heights) <= (4.5 if entropy else 3.5) * one
    assert heights[1] - heights[0] < 0.5 * one


def test_half_precision_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(16, 5000).bfloat16(), torch.randn(9, 16).bfloat16()
    targets = torch.randint(5000, (9,))
    values, entropies = token_logprobs(hidden, head, targets, entropy=True, chunk=4)
    exact = head(hidden).double().log_softmax(-1)
    assert values.dtype == torch.float32
    assert torch.allclose(values.double(), exact.gather(-1, targets[:, None])[:, 0], atol=1e-5)
    assert entropies is not None
    assert torch.allclose(entropies.double(), -(exact.exp() * exact).sum(-1), atol=1e-5)
