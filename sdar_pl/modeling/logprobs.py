"""Log-probs of sampled tokens from hidden states, in chunks: a whole batch of [tokens, vocabulary] logits never exists.

With a vocabulary of 152 thousand, the float32 logits of one token take 0.6 MB: those of 16 thousand tokens take 10 GB,
and as much again at every step of the softmax. A chunk takes some 1.8 MB a token, forward and backward.
Left out: fused kernels, and output layers that change their logits afterwards (policy.py refuses those models).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LogProbs(NamedTuple):
    """Log-probs of N tokens (``Policy.logprobs``: of [B, R]), in nats, float32 at least.

    ``top`` holds the log-probs of the k top tokens and, last, of *all others together*: k + 1 outcomes whose
    probabilities sum to 1.
    """

    values: Tensor  # [N], of the targets
    entropy: Tensor | None = None  # [N]
    top: Tensor | None = None  # [N, k + 1]
    top_tokens: Tensor | None = None  # [N, k] long


def token_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    top: Tensor | int | None = None,
    chunk: int = 512,
) -> LogProbs:
    """Log-probs (and entropies) of ``targets`` [N] under ``softmax(head(hidden) / temperature)``, ``hidden`` [N, D].

    ``top`` requests log-probs of further tokens at every position: the tokens named ([N, k], no token twice), or the
    ``top`` likeliest (at most the vocabulary).

    Logits of at most ``chunk`` tokens exist at one time; backward recomputes them. Exact: chunks change neither
    values nor gradients.
    """

    def piece(states: Tensor, wanted: Tensor, named: Tensor | None) -> tuple[Tensor | None, ...]:
        logits = head(states)
        if isinstance(top, int):
            named = logits.detach().topk(min(top, logits.shape[-1])).indices
        return *_Pick.apply(logits, wanted, named, temperature, entropy), named  # type: ignore[no-untyped-call]

    pieces = []
    for start in range(0, max(len(hidden), 1), chunk):
        here = slice(start, start + chunk)
        arguments = hidden[here], targets[here], top[here] if isinstance(top, Tensor) else None
        if torch.is_grad_enabled():
            pieces.append(checkpoint(piece, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(piece(*arguments))
    values, *more = (None if parts[0] is None else torch.cat(parts) for parts in zip(*pieces, strict=True))
    assert values is not None
    return LogProbs(values, *more)


class _Pick(torch.autograd.Function):
    """Logits [N, V] → log-prob of the wanted token [N], entropy [N], log-probs of the named tokens and of the rest
    [N, k + 1], with as few [N, V] tensors as can be."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, wanted: Tensor, named: Tensor | None, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        logp = (logits.to(wide) if temperature == 1.0 else logits.to(wide).div(temperature)).log_softmax(-1)
        picked = logp.gather(-1, wanted[:, None]).squeeze(-1)
        spread = -logp.exp().mul_(logp).sum(-1) if entropy else None
        top = None
        if named is not None:
            # The rest is summed itself: 1 − Σ would be nothing but rounding where the named tokens are near certain.
            inside = logp.gather(-1, named)
            rest = logp.scatter_(-1, named, -torch.inf).logsumexp(-1, keepdim=True)  # −∞ where all tokens are named
            logp.scatter_(-1, named, inside)
            top = torch.cat([inside, rest], -1)
        ctx.save_for_backward(logp, wanted, spread, named, top)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return picked, spread, top

    @staticmethod
    def backward(
        ctx: Any, d_picked: Tensor | None, d_spread: Tensor | None, d_top: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None]:
        """With z the logits over the temperature: ∂ log p_y / ∂z_j = [j = y] − p_j, ∂H / ∂z_j = −p_j (log p_j + H),
        and for the rest ∂ log p_rest / ∂z_j = [j in the rest]·p_j / p_rest − p_j."""
        if d_picked is None and d_spread is None and d_top is None:
            return None, None, None, None, None
        logp, wanted, spread, named, top = ctx.saved_tensors
        if d_picked is None:
            d_picked = logp.new_zeros(len(logp))
        every = d_picked[:, None] if d_top is None else d_picked[:, None] + d_top.sum(-1, keepdim=True)
        grad = logp.exp()
        if d_spread is None:
            grad.mul_(-every)
        else:
            grad.mul_(logp.add(spread[:, None]).mul_(-d_spread[:, None]).sub_(every))
        grad.scatter_add_(-1, wanted[:, None], d_picked[:, None])
        if d_top is not None:
            rest = top[:, -1:].clamp(min=torch.finfo(top.dtype).min)  # finite: −∞ − (−∞) is NaN
            own = logp.sub(rest).clamp_(max=0).exp_().mul_(d_top[:, -1:])  # p_j / p_rest; it stays in the rest only
            grad.add_(own.scatter_(-1, named, d_top[:, :-1]))
        return grad.div_(ctx.temperature).to(ctx.dtype), None, None, None, None
