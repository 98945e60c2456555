"""Rows that share prefixes as one packed sequence: no token is computed twice, and no padding at all.

The rows of a group begin with the same prompt, teachers of one task kind read the same skills. A *prefix tree* holds
every distinct (prefix, token) once, in segments; the forward pass reads the segments one behind the other as a single
row. A token attends to its own segment up to itself, and to the segments above it: exactly the tokens that stand before
it in each of its rows. So hidden states are those of the padded rows, and the gradient of a shared token is the sum
over its rows, to rounding.

``attend`` is an attention function of transformers (``attn_implementation="prefix_tree"``): sdpa, unless the forward
pass brings a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

#: shortest shared prefix that gets a segment of its own
SHORTEST = 16
#: what a micro-batch costs beside its tokens, in tokens
PASS = 256
NAME = "prefix_tree"


class Segment(NamedTuple):
    """``length`` tokens, ``before`` tokens from the root; ``above``: the numbers of the segments that hold those."""

    length: int
    before: int
    above: tuple[int, ...]


@dataclass
class PrefixTree:
    """The packed sequence of N tokens.

    Args:
        tokens: N tokens.
        depths: position of each token in its rows, N.
        segments: in the order of the packed sequence.
        places: for each row, the index in the packed sequence of each of its tokens.
    """

    tokens: list[int]
    depths: list[int]
    segments: list[Segment]
    places: list[list[int]]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> PrefixTree:
        """The tree of ``rows`` of tokens."""
        tree = cls([], [], [], [[] for _ in rows])
        tree._grow(rows, list(range(len(rows))), 0, ())
        return tree

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Arguments of a model's forward pass: one row of N tokens. A mask of four dimensions is taken as it is, and
        ``attend`` needs none."""
        return {
            "input_ids": torch.tensor([self.tokens], device=device),
            "position_ids": torch.tensor([self.depths], device=device),
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            "tree": self,
        }

    def positions(self, like: Tensor) -> Tensor:
        """``places`` as a tensor of the shape and on the device of the padded tokens [B, L]; 0 at padding."""
        places = torch.zeros(like.shape, dtype=torch.long)
        for row, where in zip(places, self.places, strict=True):
            row[: len(where)] = torch.tensor(where)
        return places.to(like.device)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [segment.length for segment in self.segments]

    def _grow(self, rows: Sequence[Sequence[int]], members: list[int], depth: int, above: tuple[int, ...]) -> None:
        """Add what follows the first ``depth`` tokens of ``members``, which those rows share."""
        clusters: dict[tuple[int, ...], list[int]] = {}
        for member in members:
            if len(rows[member]) > depth:
                start = tuple(rows[member][depth : depth + SHORTEST])
                clusters.setdefault(start if len(start) == SHORTEST else (-member,), []).append(member)
        for cluster in clusters.values():
            first = rows[cluster[0]]
            stop = min(depth + common(first, rows[member], depth) for member in cluster)
            for member in cluster:
                self.places[member].extend(range(len(self.tokens), len(self.tokens) + stop - depth))
            number = len(self.segments)
            self.segments.append(Segment(stop - depth, depth, above))
            self.tokens.extend(first[depth:stop])
            self.depths.extend(range(depth, stop))
            if len(cluster) > 1:
                self._grow(rows, cluster, stop, (*above, number))


def common(one: Sequence[int], other: Sequence[int], start: int = 0) -> int:
    """How many tokens two rows share from ``start`` on."""
    shorter = min(len(one), len(other))
    return next((i for i in range(start, shorter) if one[i] != other[i]), shorter) - start


def pack(rows: Sequence[Sequence[int]], budget: int, shared: bool) -> list[list[int]]:
    """Indices of the rows of each micro-batch: at most ``budget`` tokens, which a longer row exceeds alone.

    ``shared``: rows are read as a prefix tree, and a shared prefix counts once. Otherwise padding counts, and the
    longest rows come first.
    """
    if shared:
        return _pack_trees(rows, budget)
    bins: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if bins and len(rows[bins[-1][0]]) * (len(bins[-1]) + 1) <= budget:
            bins[-1].append(i)
        else:
            bins.append([i])
    return bins


def _pack_trees(rows: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """In lexicographic order rows that share a prefix are neighbours; they are parted where that costs least.

    A micro-batch reads again what its first row shares with the row before, and costs ``PASS`` tokens of its own.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    known = [0, *(common(rows[one], rows[other]) for one, other in pairwise(order))][: len(rows)]
    own = [len(rows[i]) - (k if k >= SHORTEST else 0) for i, k in zip(order, known, strict=True)]
    cost, first = [0], list[int]()  # of the first n rows: the least cost, and where their last micro-batch begins
    for end in range(len(order)):
        begin, inside = end, 0
        best = cost[end] + len(rows[order[end]]), end
        while begin > 0:
            inside += own[begin]
            begin -= 1
            size = inside + len(rows[order[begin]])
            if inside > budget:
                break
            if size <= budget:
                best = min(best, (cost[begin] + size, begin))
        cost.append(best[0] + PASS)
        first.append(best[1])
    bins, end = [], len(order)
    while end > 0:
        bins.append(order[first[end - 1] : end])
        end = first[end - 1]
    return bins[::-1]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: PrefixTree | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a decoder layer: ``query`` [1, H, N, D], ``key`` and ``value`` [1, K, N, D] → [1, N, H, D].

    Without a ``tree``, transformers' sdpa; but on a CPU a rollout's heads share the cache as it is, to the same bits:
    transformers would copy a conversation's keys and values for every query head, at each observation.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if tree is None:
        options |= {"dropout": dropout, "scaling": scaling}
        if _extends_a_cache(query, key, attention_mask, options):
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attention_mask, dropout, scale=scaling, enable_gqa=True
            )
            return attended.transpose(1, 2).contiguous(), None
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    # Autocast leaves rotated queries and keys in float32, and does not reach a bias that is a subclass of tensors.
    query, key = query.to(value.dtype), key.to(value.dtype)
    # Split once: the gradient of a slice would be as long as the whole sequence, for every segment.
    queries, keys, values = (torch.split(whole, tree.lengths, 2) for whole in (query, key, value))
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            queries[number],
            torch.cat([keys[n] for n in (*segment.above, number)], 2) if segment.above else keys[number],
            torch.cat([values[n] for n in (*segment.above, number)], 2) if segment.above else values[number],
            attn_mask=causal_lower_right(segment.length, segment.before + segment.length) if segment.above else None,
            dropout_p=dropout,
            is_causal=not segment.above,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        for number, segment in enumerate(tree.segments)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _extends_a_cache(query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether several tokens a row follow a cache on a CPU, and all that attention needs is the mask."""
    plain = mask is not None and options.get("softcap") is None and options.get("position_bias") is None
    longer = 1 < query.shape[2] < key.shape[2]
    return plain and longer and key.device.type == "cpu" and not torch.is_grad_enabled()


def enable(model: Any) -> bool:
    """Let a transformers model read trees → whether it can: it hands options to its attention, and every layer attends
    to all tokens before. Otherwise the model stays as it is."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if not getattr(model, "_supports_attention_backend", False) or kinds != {"full_attention"}:
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
