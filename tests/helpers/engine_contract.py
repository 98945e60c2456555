"""The engine contract: one function a rule, through the public ``Engine`` interface alone.

``rule(engine, policy)`` raises AssertionError where the engine breaks the rule. Give every rule a new engine and a
small random policy with the end tokens of ``quick_to_end``. tests/contracts/test_engines.py lists the engines.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from helpers.models import shake
from sdar_pl.batch import Row, collate
from sdar_pl.engines import Completion, Engine, Request, Sampling
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import AllocationMeter
from sdar_pl.policy import Policy

HOT = Sampling(temperature=1.3, max_new_tokens=9)
#: nats by which the log-probs of engine and trainer may differ (float32, other order of sums)
TOLERANCE = 1e-4


def prompt(seed: int, length: int = 12) -> list[int]:
    return [random.Random(seed).randrange(250) for _ in range(length)]


def ask(prompts: Sequence[list[int]], first: int = 0, keep: bool = True) -> list[Request]:
    """One request a prompt, with sessions and streams from ``first`` on."""
    return [Request(first + n, tokens, np.random.default_rng(first + n), keep) for n, tokens in enumerate(prompts)]


def converse(
    engine: Engine, order: Sequence[int], turns: int = 3, sampling: Sampling = HOT, part: int = 100
) -> dict[int, list[Completion]]:
    """Conversations by number, with prompts of unequal lengths; ``part`` of them are asked at a time."""
    streams = {n: np.random.default_rng(n) for n in order}
    contexts: dict[int, list[int]] = {n: prompt(n // 3, 10 + n // 3) for n in order}  # three share a first prompt
    answers: dict[int, list[Completion]] = {n: [] for n in order}
    for turn in range(turns):
        for begin in range(0, len(order), part):
            some = order[begin : begin + part]
            completions = engine.generate([Request(n, contexts[n], streams[n]) for n in some], sampling)
            for n, completion in zip(some, completions, strict=True):
                answers[n].append(completion)
                contexts[n] = contexts[n] + completion.tokens + prompt(100 * n + turn, 3 + (n + turn) % 5)
    engine.release(order)
    return answers


def tokens_of(answers: dict[int, list[Completion]]) -> dict[int, list[list[int]]]:
    return {n: [completion.tokens for completion in completions] for n, completions in answers.items()}


def row_of(context: list[int], completion: Completion) -> Row:
    tokens, count = context + completion.tokens, len(completion.tokens)
    return Row(0, 0, tokens, list(range(len(context), len(tokens))), [0] * count, completion.logprobs)


def assert_trainers(
    policy: Policy, contexts: Sequence[list[int]], completions: Sequence[Completion], temperature: float = 1.0
) -> None:
    """The completions' log-probs are those that the trainer computes for the same tokens."""
    batch = collate([row_of(*pair) for pair in zip(contexts, completions, strict=True)]).to(policy.device)
    with policy.whole():
        trainer = policy.logprobs(batch, temperature=temperature).values
    torch.testing.assert_close(batch.engine_logprobs, trainer, atol=TOLERANCE, rtol=0)


# ---------------------------------------------------------------------- the rules


def logprobs_are_the_trainers(engine: Engine, policy: Policy) -> None:
    """In every turn, under the temperature, before top-k and top-p."""
    engine.sync(policy)
    for sampling in (
        Sampling(temperature=1.0, max_new_tokens=12),
        Sampling(temperature=0.7, max_new_tokens=12),
        Sampling(temperature=1.3, top_p=0.8, top_k=5, max_new_tokens=12),
    ):
        contexts = [prompt(n, 8 + 3 * n) for n in range(6)]
        if sampling.top_k and engine.off_policy:  # a server's log-probs are those after the filters
            with pytest.raises(UserError, match=r"data.evaluation.top_p: 0.8;"):
                engine.generate(ask(contexts), sampling)
            continue
        for turn in range(2):
            completions = engine.generate(ask(contexts), sampling)
            assert sum(len(completion.tokens) for completion in completions) > 20, "the premise of this check"
            assert_trainers(policy, contexts, completions, sampling.temperature)
            contexts = [c + completions[n].tokens + prompt(9 * n + turn, 4 + n) for n, c in enumerate(contexts)]
        engine.release(range(6))


def tokens_depend_on_prompt_and_stream_only(engine: Engine, policy: Policy) -> None:
    """Neither on the requests beside them, nor on their order, nor on what was asked before."""
    engine.sync(policy)
    order = list(range(9))
    alone = {n: tokens_of(converse(engine, [n]))[n] for n in order}
    lengths = {len(tokens) for answers in alone.values() for tokens in answers}
    assert len(lengths) > 3, "the premise of this check: responses that end at different times"
    assert len({tuple(answers[0]) for answers in alone.values()}) == 9, "each stream goes its own way"
    shuffled = order.copy()
    random.Random(3).shuffle(shuffled)
    for some, part in ((order, 100), (shuffled, 100), (shuffled, 4), (order, 2)):
        assert tokens_of(converse(engine, some, part=part)) == alone


def completions_come_in_the_order_of_requests(engine: Engine, policy: Policy) -> None:
    engine.sync(policy)
    requests = ask([prompt(5, 9), prompt(1, 30), prompt(5, 9), prompt(3, 4)], keep=False)
    there = [completion.tokens for completion in engine.generate(requests, HOT)]
    again = ask([request.prompt for request in requests], keep=False)[::-1]
    back = [completion.tokens for completion in engine.generate(again, HOT)]
    assert len({*map(tuple, there)}) == 4, "the premise of this check"
    assert back == there[::-1]
    assert engine.generate([], HOT) == []


def sync_makes_new_weights_visible_every_time(engine: Engine, policy: Policy) -> None:
    """Nothing that older weights have cached is used."""
    context = prompt(1, 30)
    for seed in (1, 2, 3):
        if any(parameter.requires_grad and "lora_" in name for name, parameter in policy.named_parameters()):
            shake(policy, seed)
        else:
            with torch.no_grad():
                policy.causal_lm.get_input_embeddings().weight.mul_(0.9)
        engine.sync(policy)
        assert engine.prefilled == engine.generated == 0
        (completion,) = engine.generate(ask([context]), HOT)
        assert_trainers(policy, [context], [completion], HOT.temperature)
        assert engine.prefilled == len(context), "a context cached under older weights is read anew"
        context = context + completion.tokens + prompt(2, 4)


def release_forgets(engine: Engine, policy: Policy) -> None:
    """A released session takes no memory, and its next prompt is read from the beginning."""
    engine.sync(policy)
    first, second = prompt(1, 20), prompt(2, 26)
    with AllocationMeter() as meter:
        engine.generate(ask([first, second]), HOT)
        engine.release([0, 1, 77])
        assert meter.now == 0
    counted = engine.prefilled
    engine.generate(ask([[*second, 5], [*first, 5]]), HOT)  # the sessions' numbers, with other contexts
    engine.release([0])
    engine.generate(ask([[*second, 5, 6]]), HOT)
    assert engine.prefilled == counted + 27 + 21 + 28


def what_is_not_to_be_kept_is_not(engine: Engine, policy: Policy) -> None:
    """Room to work in may stay until all sessions are released; nothing is added for a session."""
    engine.sync(policy)
    contexts = [prompt(1, 20), prompt(2, 26)]
    completions = engine.generate(ask(contexts, keep=False), HOT)
    others = [Request(10 + n, tokens, np.random.default_rng(n), False) for n, tokens in enumerate(contexts)]
    with AllocationMeter() as meter:
        engine.generate(others, HOT)
        assert meter.now == 0
    following = [c + completion.tokens for c, completion in zip(contexts, completions, strict=True)]
    engine.generate(ask(following, keep=False), HOT)
    assert engine.prefilled == 2 * 46 + sum(map(len, following))


def a_session_may_begin_anew(engine: Engine, policy: Policy) -> None:
    """A prompt that does not continue what is cached under its session is answered as by a new engine."""
    engine.sync(policy)
    first, second = prompt(1, 20), prompt(2, 26)
    engine.generate(ask([first, second]), HOT)
    contexts = [second + prompt(3, 4), first[:10]]
    changed = engine.generate(ask(contexts), HOT)
    engine.sync(policy)
    assert [one.tokens for one in changed] == [one.tokens for one in engine.generate(ask(contexts), HOT)]
    assert_trainers(policy, contexts, changed, HOT.temperature)


def an_end_token_is_the_last(engine: Engine, policy: Policy) -> None:
    """A response that ends by itself ends with an end token, which counts; none stands before it."""
    engine.sync(policy)
    sampling = Sampling(temperature=1.5, max_new_tokens=30)
    completions = engine.generate(ask([prompt(n) for n in range(40)], keep=False), sampling)
    lengths = [len(completion.tokens) for completion in completions]
    assert min(lengths) < 30 <= max(lengths), "the premise of this check"
    for completion in completions:
        assert completion.tokens[-1] in policy.end_tokens or len(completion.tokens) == 30
        assert not policy.end_tokens & set(completion.tokens[:-1])
        assert len(completion.logprobs) == len(completion.tokens)


def max_new_tokens_is_the_limit(engine: Engine, policy: Policy) -> None:
    """Also where an end token stands at the limit, and a shorter limit cuts the same response."""
    engine.sync(policy)
    prompts = [prompt(n) for n in range(12)]
    long = engine.generate(ask(prompts, keep=False), Sampling(temperature=1.5, max_new_tokens=8))
    assert max(len(completion.tokens) for completion in long) == 8
    for limit in (1, 3):
        short = engine.generate(ask(prompts, keep=False), Sampling(temperature=1.5, max_new_tokens=limit))
        assert [one.tokens for one in short] == [one.tokens[:limit] for one in long]


def temperature_zero_is_greedy(engine: Engine, policy: Policy) -> None:
    """Every token is the likeliest, whatever the stream; the log-probs are those of temperature 1."""
    engine.sync(policy)
    contexts = [prompt(n, 5 + 2 * n) for n in range(6)]
    greedy = Sampling(temperature=0, max_new_tokens=20)
    completions = engine.generate(ask(contexts, keep=False), greedy)
    other = engine.generate(ask(contexts, first=50, keep=False), greedy)
    assert [one.tokens for one in completions] == [one.tokens for one in other]
    assert_trainers(policy, contexts, completions)
    batch = collate([row_of(*pair) for pair in zip(contexts, completions, strict=True)]).to(policy.device)
    with policy.whole():
        values, _, top, _ = policy.logprobs(batch, top=1)
    assert top is not None
    assert (values >= top[..., 0] - TOLERANCE).all()


def a_stop_string_ends_a_response(engine: Engine, policy: Policy) -> None:
    """At the token that completes the first of them, which counts; a stop string may span tokens."""
    engine.sync(policy)
    decode = policy.tokenizer.decode
    plain = engine.generate(ask([prompt(n) for n in range(12)], keep=False), Sampling(max_new_tokens=20))
    texts = [decode(completion.tokens) for completion in plain]
    chosen = max(range(12), key=lambda n: len(plain[n].tokens))
    middle = decode(plain[chosen].tokens[4:7])
    assert len(middle) > 1, "the premise of this check"
    for stop in ([middle], ["never said", middle[-1]], [texts[chosen][0]]):
        stopped = engine.generate(
            ask([prompt(n) for n in range(12)], keep=False), Sampling(max_new_tokens=20, stop=stop)
        )
        for whole, cut in zip(plain, stopped, strict=True):
            ends = [n for n in range(1, len(whole.tokens) + 1) if any(s in decode(whole.tokens[:n]) for s in stop)]
            assert cut.tokens == whole.tokens[: ends[0] if ends else None]
        assert len(stopped[chosen].tokens) < len(plain[chosen].tokens)


def tokens_are_counted(engine: Engine, policy: Policy) -> None:
    """``generated`` is exact; ``prefilled`` lies between the new tokens of distinct prompts and all prompts."""
    engine.sync(policy)
    assert engine.prefilled == engine.generated == 0
    shared = prompt(1, 30)
    completions = engine.generate(ask([shared] * 4), HOT)
    generated = sum(len(completion.tokens) for completion in completions)
    assert engine.generated == generated
    assert 30 <= engine.prefilled <= 4 * 30
    before = engine.prefilled
    following = [shared + one.tokens + prompt(n, 5) for n, one in enumerate(completions)]
    more = engine.generate(ask(following), HOT)
    assert engine.generated == generated + sum(len(completion.tokens) for completion in more)
    # The last token of a response was sampled and never fed: it is read with the new ones.
    assert before + 4 * (1 + 5) <= engine.prefilled <= before + sum(map(len, following))


def what_the_model_cannot_read_is_refused(engine: Engine, policy: Policy) -> None:
    engine.sync(policy)
    (completion,) = engine.generate(ask([prompt(1, 2040)], keep=False), Sampling(max_new_tokens=8))
    assert 1 <= len(completion.tokens) <= 8
    with pytest.raises(UserError, match=r"2049 tokens.*the 2048 that this model reads"):
        engine.generate(ask([prompt(2, 5), prompt(1, 2040)]), Sampling(max_new_tokens=9))


def the_policy_is_left_as_it_was(engine: Engine, policy: Policy) -> None:
    """Mode, gradient, weights and configuration; also after an error."""
    weights = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    for training in (True, False):
        policy.train(training)
        engine.sync(policy)
        engine.generate(ask([prompt(1)]), HOT)
        assert policy.training is policy.causal_lm.training is training
        with pytest.raises(UserError):
            engine.generate(ask([prompt(1, 2048)]), HOT)
        assert policy.training is policy.causal_lm.training is training
    assert torch.is_grad_enabled()
    assert not policy.causal_lm.config.use_cache
    assert all(torch.equal(weights[name], parameter) for name, parameter in policy.named_parameters())


#: every rule by its name
RULES: dict[str, Callable[[Engine, Policy], None]] = {
    rule.__name__: rule
    for rule in (
        logprobs_are_the_trainers,
        tokens_depend_on_prompt_and_stream_only,
        completions_come_in_the_order_of_requests,
        sync_makes_new_weights_visible_every_time,
        release_forgets,
        what_is_not_to_be_kept_is_not,
        a_session_may_begin_anew,
        an_end_token_is_the_last,
        max_new_tokens_is_the_limit,
        temperature_zero_is_greedy,
        a_stop_string_ends_a_response,
        tokens_are_counted,
        what_the_model_cannot_read_is_refused,
        the_policy_is_left_as_it_was,
    )
}
