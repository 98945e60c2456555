"""Draw one token a row by inverse CDF: a row's token follows from its logits and one uniform number alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdar_pl.engines.base import Sampling

#: bytes that ``draw`` takes for each row and word: logits, their scaled copy and log-probs in float32; probabilities,
#: their sums and a flipped copy in float64; two masks
BYTES_A_LOGIT = 3 * 4 + 3 * 8 + 2


def draw(logits: Tensor, uniforms: Sequence[float], sampling: Sampling) -> tuple[list[int], list[float]]:
    """Logits [n, V] float32 and n numbers in [0, 1) → n tokens and their log-probs.

    The log-probs are under softmax(logits / temperature), before top-k and top-p. At temperature 0 the tokens are the
    likeliest, the numbers are not used, and the log-probs are those of temperature 1.

    Raises ``FloatingPointError`` where a row has a NaN or +∞ among its logits.
    """
    logprobs = (logits / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        probs = truncate(logprobs, sampling).double()
        cdf = probs.cumsum(-1)
        u = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
        tokens = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).squeeze(1)
        # u close to 1 may fall past the last token that has probability.
        last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).to(torch.int8).argmax(-1)
        tokens = tokens.minimum(last)
    # One such logit makes every log-prob of its row NaN or -∞.
    drawn = logprobs.gather(-1, tokens[:, None]).squeeze(1).tolist()
    if not all(map(math.isfinite, drawn)):
        raise FloatingPointError("logits are not finite")
    return tokens.tolist(), drawn


def truncate(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs [n, V] → probabilities [n, V] after top-k, then top-p (not renormalised)."""
    probs = logprobs.exp()
    if sampling.top_k:
        floor = probs.topk(min(sampling.top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.masked_fill(probs < floor, 0.0)
    if sampling.top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        # Keep the smallest set whose mass reaches top_p: drop what stands after it.
        drop = ranked.cumsum(-1) - ranked >= sampling.top_p * ranked.sum(-1, keepdim=True)
        probs = probs.masked_fill(drop.scatter(-1, order, drop), 0.0)
    return probs
