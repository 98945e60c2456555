"""Rows as a prefix tree: the same log-probs and gradients as padded rows, with every shared prefix read once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from helpers.models import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sdar_pl.batch import Row, collate
from sdar_pl.modeling.prefix_tree import PASS, SHORTEST, PrefixTree, attend, pack
from sdar_pl.policy import LoRA, Policy

TOKENS = st.lists(st.integers(1, 3), max_size=40)


def paths(tree: PrefixTree) -> list[list[int]]:
    """The tokens of each row as the tree has them."""
    return [[tree.tokens[i] for i in places] for places in tree.places]


def seen(tree: PrefixTree, number: int) -> list[int]:
    """Packed indices of the tokens that the last token of a segment attends to, by position."""
    starts = [sum(tree.lengths[:n]) for n in range(len(tree.segments))]
    chain = (*tree.segments[number].above, number)
    return [starts[n] + k for n in chain for k in range(tree.lengths[n])]


@settings(max_examples=200, deadline=None)
@given(st.lists(TOKENS, max_size=8), TOKENS)
def test_a_tree_holds_the_rows(rows: list[list[int]], prefix: list[int]) -> None:
    rows = [*rows, *([*prefix, *row] for row in rows)]
    tree = PrefixTree.of(rows)
    assert paths(tree) == rows
    assert all(tree.depths[i] == depth for places in tree.places for depth, i in enumerate(places))
    assert len(tree.tokens) == sum(tree.lengths) <= sum(map(len, rows))
    chains = {tuple(seen(tree, number)) for number in range(len(tree.segments))}
    # A row is read by its last segment and those above it, and by no other.
    assert all(tuple(places) in chains for places in tree.places if places)
    assert all(segment.before == sum(tree.lengths[n] for n in segment.above) for segment in tree.segments)


def test_what_is_shared_once() -> None:
    prompt, short = list(range(100, 130)), list(range(SHORTEST - 1))
    rows = [[*prompt, 1, 2], [*prompt, 3], [*prompt, 1, 2, 4], [*short, 7], [*short, 8], [*prompt, 1, 2]]
    tree = PrefixTree.of(rows)
    assert paths(tree) == rows
    assert tree.lengths[0] == len(prompt)
    assert len(tree.tokens) == len(prompt) + 2 + 1 + 3 + 2 + 2 * SHORTEST  # a short shared prefix is read again


def test_packing_counts_a_shared_prefix_once() -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(9) for _ in range(50)] for _ in range(6)]
    rows = [[*prompt, *(rng.randrange(9) for _ in range(rng.randrange(1, 20)))] for prompt in prompts for _ in range(8)]
    rng.shuffle(rows)
    for budget in (60, 150, 400):
        bins = pack(rows, budget, shared=True)
        assert sorted(i for chunk in bins for i in chunk) == list(range(len(rows)))
        sizes = [len(PrefixTree.of([rows[i] for i in chunk]).tokens) for chunk in bins]
        assert all(size <= budget or len(chunk) == 1 for size, chunk in zip(sizes, bins, strict=True))
        assert len(bins) < len(pack(rows, budget, shared=False))
    assert len(pack(rows, 10_000, shared=True)) == 1
    assert pack([], 5, shared=True) == []


def test_packing_parts_rows_that_share_little() -> None:
    """A prompt is read again only where that is cheaper than one more micro-batch."""
    long, short = [[[group] * prompt + [9, row] for group in range(4) for row in range(8)] for prompt in (600, 20)]
    assert [sorted(chunk) for chunk in pack(long, 1000, shared=True)] == [[*range(n, n + 8)] for n in (0, 8, 16, 24)]
    assert len(pack(short, 50, shared=True)) == 4
    assert len(pack(short, 55, shared=True)) == 3


@pytest.mark.parametrize("seed", range(4))
def test_packing_costs_least_of_all_divisions(seed: int) -> None:
    rng = random.Random(seed)
    prompts = [[n, *(rng.randrange(3) for _ in range(rng.choice([10, 40, 300])))] for n in range(3)]
    rows = [[*rng.choice(prompts), n, *(rng.randrange(9) for _ in range(rng.randrange(1, 60)))] for n in range(9)]

    def cost(division: Sequence[Sequence[int]]) -> int:
        sizes = [len(PrefixTree.of([rows[i] for i in chunk]).tokens) for chunk in division]
        fits = all(size <= 400 or len(chunk) == 1 for size, chunk in zip(sizes, division, strict=True))
        return sum(sizes) + PASS * len(sizes) if fits else 10**9

    order = sorted(range(9), key=lambda i: rows[i])
    cuts = [[n for n in range(1, 9) if number >> n & 1] for number in range(0, 512, 2)]
    divisions = [[order[a:b] for a, b in pairwise([0, *cut, 9])] for cut in cuts]
    assert cost(pack(rows, 400, shared=True)) == min(map(cost, divisions))


def some_rows(seed: int) -> list[Row]:
    """Three groups: rows that share a prompt, rows of which one is the beginning of another, a row of its own."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(5, 250) for _ in range(count)]

    prompt, other = tokens(40), tokens(25)
    texts: list[list[int]] = [[*prompt, *tokens(9)] for _ in range(3)]
    texts += [[*texts[0], *tokens(20)], [*texts[0], *tokens(17)], other, [*other, *tokens(30)], tokens(12), texts[0]]
    rows = []
    for n, text in enumerate(texts):
        positions = sorted(rng.sample(range(1, len(text)), len(text) // 3))
        rows.append(Row(n, 0, text, positions, [0] * len(positions), [0.0] * len(positions)))
    return rows


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tree") / request.param
    make_model(path, request.param)
    return str(path)


@pytest.mark.parametrize(
    ("lora", "options"),
    [(True, {}), (False, {}), (True, {"gradient_checkpointing": True}), (True, {"quantization": "nf4"})],
    ids=["lora", "full", "checkpointing", "nf4"],
)
def test_values_and_gradients_are_those_of_padded_rows(folder: str, lora: bool, options: dict[str, bool]) -> None:
    def policy(attention: str) -> Policy:
        torch.manual_seed(0)
        made = Policy(folder, LoRA(r=4) if lora else None, attention=attention, **options)  # type: ignore[arg-type]
        made.build()
        for name, weight in made.trained():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        return made

    shared, plain = policy("prefix_tree"), policy("sdpa")
    assert shared.shares_prefixes
    assert not plain.shares_prefixes
    batch = collate(some_rows(0))
    weights = torch.rand(batch.mask.shape)
    found = []
    for one in (shared, plain):
        logprobs = one.logprobs(batch, temperature=0.7, entropy=True, top=4)
        assert logprobs.entropy is not None
        ((logprobs.values + 0.1 * logprobs.entropy) * weights * batch.mask).sum().backward()
        found.append((logprobs, [weight.grad for _, weight in one.trained()]))
    (ours, gradients), (wanted, wanted_gradients) = found
    for name, value, other in zip(ours._fields, ours, wanted, strict=True):
        assert value is not None
        assert other is not None
        assert torch.allclose(value.float(), other.float(), atol=2e-5), name
    for gradient, other in zip(gradients, wanted_gradients, strict=True):
        assert gradient is not None
        assert other is not None
        assert (gradient - other).norm() <= 2e-5 * (1 + other.norm())


def test_mixed_precision(folder: str) -> None:
    found = []
    for attention in ("sdpa", "prefix_tree"):
        policy = Policy(folder, attention=attention)  # type: ignore[arg-type]
        policy.build()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found.append(policy.logprobs(collate(some_rows(0))).values)
    assert torch.allclose(found[0], found[1], atol=0.2)


def test_a_model_with_sliding_windows_reads_padded_rows(tmp_path: object) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from sdar_pl.modeling.prefix_tree import enable

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    sliding = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **window))
    whole = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))
    assert not enable(sliding)
    assert enable(whole)


def test_order_of_rows_does_not_matter(folder: str) -> None:
    policy = Policy(folder, attention="prefix_tree")
    policy.build()
    rows: Sequence[Row] = some_rows(1)
    with policy.evaluating():
        forward = policy.logprobs(collate(rows)).values.sum(1)
        backward = policy.logprobs(collate(rows[::-1])).values.sum(1)
    assert torch.allclose(forward, backward.flip(0), atol=1e-4)


@pytest.mark.parametrize(("heads", "shared"), [(4, 2), (9, 3), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rollout_reads_a_cache_without_copies(
    heads: int, shared: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An observation that follows a conversation: transformers' values to the last bit, and no repeated keys."""
    from transformers.integrations import sdpa_attention

    module = SimpleNamespace(num_key_value_groups=heads // shared)
    query = torch.randn(3, heads, 7, 16, dtype=dtype)
    key, value = (torch.randn(3, shared, 40, 16, dtype=dtype) for _ in range(2))
    mask = torch.ones(3, 1, 7, 40, dtype=torch.bool).tril(33)
    mask[1, :, :, :9] = False
    with torch.no_grad():
        wanted, _ = sdpa_attention.sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
        monkeypatch.setattr(sdpa_attention, "repeat_kv", None)
        found, _ = attend(module, query, key, value, mask, scaling=0.3)
    assert found.is_contiguous()
    assert torch.equal(found, wanted)
