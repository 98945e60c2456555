"""Log-probs of sampled tokens from hidden states, in chunks: a whole batch of [tokens, vocabulary] logits never exists.

With a vocabulary of 152 thousand, the float32 logits of one token take 0.6 MB: those of 16 thousand tokens take 10 GB,
and as much again at every step of the softmax. A chunk takes some 1.8 MB a token, forward and backward.
Left out: fused kernels, and output layers that change their logits afterwards (policy.py refuses those models).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int = 512,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (and entropies, in nats) of ``targets`` [N] under ``softmax(head(hidden) / temperature)``.

    ``hidden`` [N, D] → [N], float32 at least. Logits of at most ``chunk`` tokens exist at one time; backward computes
    them anew. Exact: chunks change neither values nor gradients.
    """

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | None]:
        return _Pick.apply(head(states), wanted, temperature, entropy)  # type: ignore[no-any-return, no-untyped-call]

    values, spreads = [], []
    for start in range(0, max(len(hidden), 1), chunk):
        states, wanted = hidden[start : start + chunk], targets[start : start + chunk]
        if torch.is_grad_enabled():
            value, spread = checkpoint(piece, states, wanted, use_reentrant=False, preserve_rng_state=False)
        else:
            value, spread = piece(states, wanted)
        values.append(value)
        spreads.append(spread)
    return torch.cat(values), torch.cat(spreads) if entropy else None


class _Pick(torch.autograd.Function):
    """Logits [N, V] → log-prob of the wanted token [N] and entropy [N], with as few [N, V] tensors as can be."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, wanted: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        logp = (logits.to(wide) if temperature == 1.0 else logits.to(wide).div(temperature)).log_softmax(-1)
        picked = logp.gather(-1, wanted[:, None]).squeeze(-1)
        spread = -logp.exp().mul_(logp).sum(-1) if entropy else None
        ctx.save_for_backward(logp, wanted, spread)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return picked, spread

    @staticmethod
    def backward(ctx: Any, d_picked: Tensor | None, d_spread: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """∂ log p_y / ∂z_j = [j = y] − p_j and ∂H / ∂z_j = −p_j (log p_j + H), z the logits over the temperature."""
        if d_picked is None and d_spread is None:
            return None, None, None, None
        logp, wanted, spread = ctx.saved_tensors
        if d_picked is None:
            d_picked = torch.zeros_like(d_spread)  # type: ignore[arg-type]
        grad = logp.exp()
        if d_spread is None:
            grad.mul_(-d_picked[:, None])
        else:
            grad.mul_(logp.add(spread[:, None]).mul_(-d_spread[:, None]).sub_(d_picked[:, None]))
        grad.scatter_add_(-1, wanted[:, None], d_picked[:, None])
        return grad.div_(ctx.temperature).to(ctx.dtype), None, None, None
