"""The in-process engine: right log-probs, right caches, right draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import shake
from helpers.worlds import Echo

from sdar_pl.batch import collate, rows_of
from sdar_pl.engines import Completion, Request, Sampling, TransformersEngine
from sdar_pl.engines.kv import Block, gather
from sdar_pl.engines.transformers import truncate
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play

MakePolicy = Callable[..., Policy]
HOT = Sampling(temperature=1.3, max_new_tokens=9)


def start(policy: Policy, **options: Any) -> TransformersEngine:
    engine = TransformersEngine(**options)
    engine.sync(policy)
    return engine


def quick_to_end(policy: Policy) -> Policy:
    """Every tenth token ends a response, so that rows end at different times."""
    policy.causal_lm.generation_config.eos_token_id = list(range(0, 330, 10))
    return policy


def prompt(number: int, length: int = 12) -> list[int]:
    return [random.Random(number).randrange(250) for _ in range(length)]


def ask(prompts: Sequence[list[int]], first: int = 0) -> list[Request]:
    return [Request(first + n, tokens, np.random.default_rng(first + n)) for n, tokens in enumerate(prompts)]


def converse(
    engine: TransformersEngine, order: Sequence[int], turns: int = 4, sampling: Sampling = HOT, part: int = 100
) -> dict[int, list[Completion]]:
    """Conversations of several turns with prompts of unequal lengths; ``part`` of them are asked at a time."""
    streams = {n: np.random.default_rng(n) for n in order}
    contexts: dict[int, list[int]] = {n: prompt(n // 3, 10 + n // 3) for n in order}  # three share a first prompt
    said: dict[int, list[Completion]] = {n: [] for n in order}
    for turn in range(turns):
        for begin in range(0, len(order), part):
            some = order[begin : begin + part]
            answers = engine.generate([Request(n, contexts[n], streams[n]) for n in some], sampling)
            for n, answer in zip(some, answers, strict=True):
                said[n].append(answer)
                contexts[n] = contexts[n] + answer.tokens + prompt(100 * n + turn, 3 + (n + turn) % 5)
    return said


def tokens_of(said: dict[int, list[Completion]]) -> dict[int, list[list[int]]]:
    return {n: [answer.tokens for answer in answers] for n, answers in said.items()}


# ---------------------------------------------------------------------- log-probs


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_trainers(make_policy: MakePolicy, family: str, history: Any, temperature: float) -> None:
    policy = make_policy(family)
    prompter = Prompter(history=history)
    prompter.bind(policy.tokenizer)
    world = Echo(turns=4)
    tasks = world.tasks("train")
    slots = [EpisodeSlot(tasks[n // 2], n // 2, n % 2, n, (0, n), context="a useful skill") for n in range(8)]
    sampling = Sampling(temperature=temperature, max_new_tokens=12)
    episodes = play(world, slots, start(policy), prompter, sampling, PlayRules())
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
    assert len(rows) == (8 if history == "conversation" else 32)
    batch = collate(rows)
    with torch.no_grad():
        trainer = policy.logprobs(batch, temperature=temperature).values
    assert batch.mask.sum() > 100
    torch.testing.assert_close(trainer, batch.engine_logprobs, atol=1e-4, rtol=0)
    # The adapters take part: the base alone says something else.
    with torch.no_grad(), policy.reference():
        base = policy.logprobs(batch, temperature=temperature).values
    assert (base - batch.engine_logprobs).abs().max() > 0.1


def test_greedy_is_generates_greedy(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.eval()
    prompts = [prompt(n, 5 + 2 * n) for n in range(6)]
    ours = start(policy).generate(ask(prompts), Sampling(temperature=0, max_new_tokens=20))
    for tokens, completion in zip(prompts, ours, strict=True):
        ids = torch.tensor([tokens])
        theirs = policy.causal_lm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, use_cache=True
        )[0, len(tokens) :].tolist()
        assert completion.tokens == theirs
    assert any(len(completion.tokens) == 20 for completion in ours)


def test_temperature_zero_draws_nothing(make_policy: MakePolicy) -> None:
    requests = ask([prompt(1)])
    before = requests[0].stream.bit_generator.state
    start(make_policy()).generate(requests, Sampling(temperature=0, max_new_tokens=4))
    assert requests[0].stream.bit_generator.state == before


# ---------------------------------------------------------------------- caches and batching


@pytest.fixture(scope="module")
def reference_said(models: Any) -> dict[int, list[list[int]]]:
    """Each conversation alone, without any cache between turns."""
    policy = Policy(str(models["qwen2"]))
    policy.build()
    engine = start(quick_to_end(policy), keep_cache=False)
    return {n: tokens_of(converse(engine, [n]))[n] for n in range(9)}


@pytest.mark.parametrize(
    ("options", "part", "shuffled"),
    [
        ({}, 100, False),
        ({}, 100, True),
        ({"keep_cache": False}, 100, False),
        ({"max_rows": 1}, 100, False),
        ({"max_rows": 4}, 100, True),
        ({"prefill_tokens": 20}, 100, True),
        ({"max_rows": 5, "prefill_tokens": 30}, 7, True),
        ({}, 2, False),
    ],
)
def test_tokens_depend_on_nothing_but_prompt_and_stream(
    make_policy: MakePolicy, reference_said: Any, options: dict[str, Any], part: int, shuffled: bool
) -> None:
    order = list(range(9))
    if shuffled:
        random.Random(3).shuffle(order)
    engine = start(quick_to_end(make_policy(lora=False)), **options)
    said = converse(engine, order, part=part)
    assert tokens_of(said) == reference_said
    lengths = {len(tokens) for answers in reference_said.values() for tokens in answers}
    assert len(lengths) > 3, "conversations that end at different times are wanted here"


def test_what_is_prefilled(make_policy: MakePolicy) -> None:
    engine = start(make_policy())
    shared = prompt(1, 30)
    answers = engine.generate(ask([shared] * 8), HOT)
    assert engine.prefilled == 30, "a prompt shared by a group is run once"
    assert engine.generated == sum(len(answer.tokens) for answer in answers)
    following = [shared + answer.tokens + prompt(n, 5) for n, answer in enumerate(answers)]
    engine.generate(ask(following), HOT)
    # The last token of each response was sampled and never fed, so it comes with the new ones.
    assert engine.prefilled == 30 + 8 * (1 + 5)
    # A context that does not go on from what is cached is read anew.
    engine.generate(ask([prompt(9, 40)]), HOT)
    assert engine.prefilled == 30 + 8 * 6 + 40


def test_a_released_or_changed_session_is_read_anew(make_policy: MakePolicy) -> None:
    engine = start(make_policy())
    first, second = prompt(1, 20), prompt(2, 26)
    engine.generate(ask([first, second]), HOT)
    engine.release([0, 1, 77])
    # Both numbers come back with other contexts, and beside them one that goes on.
    engine.generate(ask([second, first]), HOT)
    before = engine.prefilled
    again = engine.generate(ask([first + prompt(3, 4), second + prompt(4, 4)]), HOT)
    assert engine.prefilled == before + 24 + 30
    fresh = start(make_policy()).generate(ask([first + prompt(3, 4), second + prompt(4, 4)]), HOT)
    assert [a.tokens for a in again] == [f.tokens for f in fresh]


def held(engine: TransformersEngine) -> int:
    """Cache columns that the engine keeps alive."""
    blocks = {id(kept.block): kept.block for kept in engine._kept.values()}
    return sum(block.valid.numel() for block in blocks.values())


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_memory_does_not_grow(make_policy: MakePolicy, history: Any) -> None:
    policy = make_policy()
    engine = start(policy)
    prompter = Prompter(history=history)
    prompter.bind(policy.tokenizer)
    most = []

    class Watched(Echo):
        def parse(self, text: str) -> tuple[str, bool]:
            most.append(len(engine._kept))
            return super().parse(text)

    for iteration in range(3):
        world = Watched(turns=3)
        slots = [EpisodeSlot(world.tasks("")[n], n, 0, 100 * iteration + n, (iteration, n)) for n in range(4)]
        play(world, slots, engine, prompter, HOT, PlayRules())
        assert held(engine) == 0
    assert max(most) == (4 if history == "conversation" else 0)


def test_only_what_may_go_on_is_kept(make_policy: MakePolicy) -> None:
    engine, requests = start(make_policy()), ask([prompt(n) for n in range(3)])
    requests[1].keep = False
    engine.generate(requests, HOT)
    assert engine._kept.keys() == {0, 2}
    engine.generate(ask([prompt(5), prompt(6)]), HOT)
    assert engine._kept[0].tokens[:12] == prompt(5), "what a session leaves behind is replaced"


def test_rows_that_have_ended_leave(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(quick_to_end(make_policy()))
    widths: list[int] = []
    step = engine._step

    def watched(tokens: torch.Tensor, *rest: Any) -> Any:
        widths.append(len(tokens))
        return step(tokens, *rest)

    monkeypatch.setattr(engine, "_step", watched)
    answers = engine.generate(ask([prompt(n) for n in range(16)]), Sampling(temperature=1.5, max_new_tokens=60))
    lengths = sorted(len(answer.tokens) for answer in answers)
    for fed, width in enumerate(widths[1:], 1):
        wanted = sum(length > fed for length in lengths)
        assert wanted <= width < max(wanted / 0.75, wanted + 1)
    assert lengths[0] < lengths[-1] == len(widths)


def test_a_policy_change_is_seen(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = start(policy)
    context = prompt(1, 30)
    said = engine.generate(ask([context]), HOT)[0]
    shake(policy, seed=2)
    engine.sync(policy)
    assert engine.prefilled == engine.generated == 0
    following = context + said.tokens + prompt(2, 4)
    seen = engine.generate(ask([following]), HOT)[0]
    assert engine.prefilled == len(following)
    fresh = start(policy, keep_cache=False).generate(ask([following]), HOT)[0]
    assert (seen.tokens, seen.logprobs) == (fresh.tokens, fresh.logprobs)


def test_modes_are_restored(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = start(policy)
    for mode in (True, False):
        policy.train(mode)
        answers = engine.generate(ask([prompt(1)]), HOT)
        assert policy.training is policy.causal_lm.training is mode
        assert len(answers) == 1
    assert torch.is_grad_enabled()
    assert not policy.causal_lm.config.use_cache
    policy.train()
    monkey = RuntimeError("out of memory")

    def fail(*_: Any) -> Any:
        raise monkey

    engine._step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        engine.generate(ask([prompt(1)]), HOT)
    assert policy.training


def test_gather() -> None:
    torch.manual_seed(0)
    valid = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    one = Block([(torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)) for _ in range(2)], valid)
    two = Block([(torch.randn(1, 3, 5, 4), torch.randn(1, 3, 5, 4)) for _ in range(2)], torch.ones(1, 5).bool())
    whole = gather([(one, [1, 0, 1]), (two, [0])], spare_columns=7)
    assert whole.valid.long().tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    for number in range(2):
        for which in range(2):
            new, old = whole.layers[number][which], one.layers[number][which]
            assert new.shape == (4, 3, 12, 4)
            assert torch.equal(new[0, :, 3:5], old[1, :, :2])
            assert torch.equal(new[1, :, 2:5], old[0][:, [1, 2, 4]])
            assert torch.equal(new[3, :, :5], two.layers[number][which][0])
            assert (new[:3, :, :2] == 0).all(), "columns that do not count must be finite"
    assert gather([(two, [0])]) is two


# ---------------------------------------------------------------------- sampling


def test_truncate() -> None:
    probs = torch.tensor([[0.4, 0.1, 0.3, 0.2]])
    logprobs = probs.log()

    def support(**options: Any) -> list[int]:
        return truncate(logprobs, Sampling(**options))[0].nonzero().flatten().tolist()

    assert support() == [0, 1, 2, 3]
    assert support(top_k=2) == [0, 2]
    assert support(top_k=9) == [0, 1, 2, 3]
    assert support(top_p=0.39) == [0]
    assert support(top_p=0.41) == [0, 2]
    assert support(top_p=0.71) == [0, 2, 3]
    # Top-p counts the mass that top-k has left: 0.4 of 0.7 is more than half.
    assert support(top_k=2, top_p=0.5) == [0]


@pytest.mark.parametrize(("options", "most"), [({"top_k": 3}, 3), ({"top_p": 0.5}, 0), ({}, 0)])
def test_draws_follow_the_distribution(make_policy: MakePolicy, options: dict[str, Any], most: int) -> None:
    policy = make_policy()
    engine, context, count = start(policy), prompt(5), 4000
    sampling = Sampling(temperature=1.7, max_new_tokens=1, **options)
    answers = engine.generate([Request(n, context, np.random.default_rng([7, n])) for n in range(count)], sampling)
    with torch.no_grad(), policy.whole():
        logits = policy.causal_lm(torch.tensor([context])).logits[0, -1].double() / 1.7
    logprobs = logits.log_softmax(-1)
    allowed = truncate(logprobs[None], sampling)[0]
    allowed /= allowed.sum()
    drawn = torch.bincount(torch.tensor([answer.tokens[0] for answer in answers]), minlength=len(allowed)) / count
    assert set(drawn.nonzero().flatten().tolist()) <= set(allowed.nonzero().flatten().tolist())
    assert not most or int((drawn > 0).sum()) == most
    # Three standard deviations of each frequency, and a little for the many tokens.
    assert ((drawn - allowed).abs() < 4.5 * (allowed * (1 - allowed) / count).sqrt() + 2 / count).all()
    for answer in answers[:50]:
        # As told: under the temperature, before top-k and top-p.
        assert answer.logprobs[0] == pytest.approx(float(logprobs[answer.tokens[0]]), abs=1e-4)


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval(make_policy: MakePolicy, u: float) -> None:
    class Fixed:
        def random(self) -> float:
            return u

    request = Request(0, prompt(1), Fixed())  # type: ignore[arg-type]
    engine = start(make_policy())
    logits = torch.tensor([[-1e9, 1.0, -1e9, 2.0, -1e9]])
    tokens, logprobs = engine._sample(logits, [request], [True], Sampling())
    assert tokens == ([1] if u == 0 else [3])
    assert logprobs[0] > -2


def test_streams_are_reproducible(make_policy: MakePolicy) -> None:
    engine = start(make_policy())
    once, twice = (tokens_of(converse(engine, [0, 1, 2], turns=2)) for _ in range(2))
    assert once == twice
    other = engine.generate([Request(9, prompt(0, 10), np.random.default_rng(999))], HOT)[0]
    assert other.tokens != once[0][0]
    # The three share a prompt, and each goes its own way.
    assert len({tuple(answers[0]) for answers in once.values()}) == 3


def test_what_ends_a_response(make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine, end = start(policy), policy.tokenizer.eos_token_id
    policy.causal_lm.generation_config.eos_token_id = [1, *range(100, 120)]  # besides the tokenizer's own
    assert policy.end_tokens == {end, 1, *range(100, 120)}
    answers = engine.generate(ask([prompt(n) for n in range(40)]), Sampling(temperature=1.5, max_new_tokens=30))
    lengths = [len(answer.tokens) for answer in answers]
    assert max(lengths) == 30
    assert min(lengths) < 30
    for answer in answers:
        assert answer.tokens[-1] in policy.end_tokens or len(answer.tokens) == 30
        assert not policy.end_tokens & set(answer.tokens[:-1])
        assert len(answer.logprobs) == len(answer.tokens)


@pytest.mark.parametrize("stop", ["e", "o s", "⟦⟦⟦"])
def test_stop_strings(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    """A stop string ends a response at the token that completes it, also one whose characters are several tokens."""
    policy = make_policy()
    engine, tokenizer = start(policy), policy.tokenizer
    script = tokenizer.encode("go to ⟦⟦shelf ⟦⟦⟦ and ⟦⟦⟦ more" if "⟦" in stop else "go to shelf 1, take")
    sample = engine._sample

    def scripted(logits: Any, rows: Any, running: Any, sampling: Any) -> Any:
        tokens, logprobs = sample(logits, rows, running, sampling)
        return [script.pop(0) for _ in tokens], logprobs

    monkeypatch.setattr(engine, "_sample", scripted)
    answer = engine.generate(ask([prompt(1)]), Sampling(max_new_tokens=50, stop=["never", stop]))[0]
    assert stop in tokenizer.decode(answer.tokens)
    assert stop not in tokenizer.decode(answer.tokens[:-1])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_bad_sampling(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sampling.{next(iter(wrong))}"):
        Sampling(**wrong)


@pytest.mark.parametrize("name", ["max_rows", "prefill_tokens"])
def test_bad_engine(name: str) -> None:
    with pytest.raises(UserError, match=name):
        TransformersEngine(**{name: 0})


def test_longer_than_the_model_reads(make_policy: MakePolicy) -> None:
    engine = start(make_policy())
    engine.generate(ask([prompt(1, 2040)]), Sampling(max_new_tokens=8))
    with pytest.raises(UserError, match=r"2049 tokens.*the 2048 that this model reads"):
        engine.generate(ask([prompt(1, 2040)]), Sampling(max_new_tokens=9))


def test_sliding_windows_are_refused(tmp_path: Any) -> None:
    from helpers.models import make_model

    make_model(tmp_path, "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    policy = Policy(str(tmp_path))
    policy.build()
    with pytest.raises(UserError, match="full attention"):
        TransformersEngine().sync(policy)
