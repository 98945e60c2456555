"""TransformersEngine beyond the contract (tests/contracts/test_engines.py): what it saves and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.engine_contract import HOT, ask, prompt
from helpers.models import make_model, quick_to_end
from helpers.worlds import Echo

from sdar_pl.batch import collate, rows_of
from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.errors import UserError
from sdar_pl.modeling.memory import AllocationMeter
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play

MakePolicy = Callable[..., Policy]


def start(policy: Policy, **options: Any) -> TransformersEngine:
    engine = TransformersEngine(**options)
    engine.sync(policy)
    return engine


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_episodes_are_the_trainers(
    make_policy: MakePolicy, family: str, history: Any, temperature: float
) -> None:
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


def test_continued_and_new_sessions_in_one_call(make_policy: MakePolicy) -> None:
    """Continued ones are read on, new and changed ones from the beginning; none disturbs another."""
    engine = start(make_policy())
    contexts = [prompt(n, 20 + n) for n in range(4)]
    answers = engine.generate(ask(contexts), HOT)
    engine.release([3])
    following = [c + answer.tokens + prompt(n, 4) for n, (c, answer) in enumerate(zip(contexts, answers, strict=True))]
    following[1] = prompt(8, 33)
    before = engine.prefilled
    again = engine.generate(ask([*following, prompt(9, 15)]), HOT)
    assert engine.prefilled == before + (1 + 4) + 33 + (1 + 4) + len(following[3]) + 15
    fresh = start(make_policy(), keep_cache=False).generate(ask([*following, prompt(9, 15)]), HOT)
    assert [one.tokens for one in again] == [one.tokens for one in fresh]


def test_keep_cache_false_reads_every_prompt(make_policy: MakePolicy) -> None:
    engine = start(make_policy(), keep_cache=False)
    context = prompt(1, 20)
    (answer,) = engine.generate(ask([context]), HOT)
    following = context + answer.tokens + [5]
    engine.generate(ask([following]), HOT)
    assert engine.prefilled == 20 + len(following)


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_episodes_leave_nothing_behind(make_policy: MakePolicy, history: Any) -> None:
    """All sessions of a ``conversation`` have caches while they last, those of ``windowed`` play never."""
    policy, most = make_policy(), 0
    engine = start(policy)
    prompter = Prompter(history=history)
    prompter.bind(policy.tokenizer)

    class Watched(Echo):
        def parse(self, text: str) -> tuple[str, bool]:
            nonlocal most
            most = max(most, meter.now)
            return super().parse(text)

    for iteration in range(2):
        world = Watched(turns=3)
        slots = [EpisodeSlot(world.tasks("")[n], n, 0, 100 * iteration + n, (iteration, n)) for n in range(4)]
        with AllocationMeter() as meter:
            play(world, slots, engine, prompter, HOT, PlayRules())
            assert meter.now == 0
    assert (most > 0) is (history == "conversation")


def test_rows_that_have_ended_leave(make_policy: MakePolicy) -> None:
    policy = quick_to_end(make_policy())
    widths: list[int] = []

    def watch(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        widths.append(len(options["input_ids"]))

    policy.causal_lm.register_forward_pre_hook(watch, with_kwargs=True)
    sampling = Sampling(temperature=1.5, max_new_tokens=60)
    answers = start(policy).generate(ask([prompt(n) for n in range(16)]), sampling)
    lengths = sorted(len(answer.tokens) for answer in answers)
    for fed, width in enumerate(widths[1:], 1):
        wanted = sum(length > fed for length in lengths)
        assert wanted <= width < max(wanted / 0.75, wanted + 1)
    assert lengths[0] < lengths[-1] == len(widths)


def test_an_error_inside_leaves_the_mode(make_policy: MakePolicy) -> None:
    policy = make_policy().train()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    policy.causal_lm.get_decoder().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        start(policy).generate(ask([prompt(1)]), HOT)
    assert policy.training
    assert torch.is_grad_enabled()


# ---------------------------------------------------------------------- ends


def test_the_tokenizers_end_counts_beside_the_configurations(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.causal_lm.generation_config.eos_token_id = [1, *range(100, 120)]
    assert policy.end_tokens == {policy.tokenizer.eos_token_id, 1, *range(100, 120)}


@pytest.mark.parametrize("stop", ["e", "o s", "⟦⟦⟦"])
def test_stop_strings(make_policy: MakePolicy, stop: str) -> None:
    """A stop string ends a response at the token that completes it, also one whose characters are several tokens."""
    policy = make_policy()
    tokenizer, words = policy.tokenizer, policy.causal_lm.config.vocab_size
    script = tokenizer.encode("go to ⟦⟦shelf ⟦⟦⟦ and ⟦⟦⟦ more" if "⟦" in stop else "go to shelf 1, take")

    def scripted(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor | None:
        if output.shape[-1] != words:
            return None  # hidden states: the output layer stands aside
        return torch.full_like(output, -1e9).index_fill(-1, torch.tensor([script.pop(0)]), 0.0)

    policy.causal_lm.get_output_embeddings().register_forward_hook(scripted)
    answer = start(policy).generate(ask([prompt(1)]), Sampling(max_new_tokens=50, stop=["never", stop]))[0]
    assert stop in tokenizer.decode(answer.tokens)
    assert stop not in tokenizer.decode(answer.tokens[:-1])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["max_rows", "prefill_tokens"])
def test_bad_engine(name: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.engine\.{name}: 0; must be ≥ 1"):
        TransformersEngine(**{name: 0})


def test_sliding_windows_are_refused(tmp_path: Any) -> None:
    make_model(tmp_path, "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    policy = Policy(str(tmp_path))
    policy.build()
    with pytest.raises(UserError, match="full attention"):
        TransformersEngine().sync(policy)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.nan, "weights are not finite (net.base_model.model.model.layers.0.self_attn.q_proj.lora_B"),
        (1e38, "all weights are finite, so the pass overflows"),
    ],
)
def test_logits_that_are_not_finite_name_their_cause(value: float, words: str, make_policy: MakePolicy) -> None:
    policy = make_policy()
    engine = start(policy)
    weights = [weight for name, weight in policy.trained() if "layers.0.self_attn.q_proj.lora_B" in name]
    with torch.no_grad():
        weights[0].fill_(value)
    with pytest.raises(UserError, match=r"^model\.policy: no token can be drawn, the logits are not finite") as raised:
        engine.generate(ask([prompt(0, 9)]), HOT)
    assert words in str(raised.value)


def test_two_requests_of_one_session_are_refused(make_policy: MakePolicy) -> None:
    requests = [*ask([prompt(1), prompt(2)]), *ask([prompt(3)])]
    with pytest.raises(ValueError, match="2 requests of session 0"):
        start(make_policy()).generate(requests, Sampling())
