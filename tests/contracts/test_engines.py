"""The rules of helpers/engine_contract.py hold for every engine, and each rule fails for an engine that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers.engine_contract import RULES
from helpers.models import quick_to_end

from sdar_pl.engines import Completion, Engine, Request, Sampling, TransformersEngine
from sdar_pl.policy import Policy

#: name → (what makes a new engine, what the policy is); a new engine adds its lines here
ENGINES: dict[str, tuple[Callable[[], Engine], dict[str, Any]]] = {
    "plain": (TransformersEngine, {}),
    "no cache, one row at a time": (lambda: TransformersEngine(keep_cache=False, max_rows=1), {}),
    "slots": (lambda: TransformersEngine(slots=True), {}),
    "few slots": (lambda: TransformersEngine(max_rows=4, prefill_tokens=30, slots=True), {"family": "qwen3"}),
    "slots, nf4": (lambda: TransformersEngine(slots=True), {"quantization": "nf4"}),
    "small batches": (lambda: TransformersEngine(max_rows=4, prefill_tokens=30), {}),
    "qwen3, no adapters": (TransformersEngine, {"family": "qwen3", "lora": False}),
    "nf4": (TransformersEngine, {"quantization": "nf4"}),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("rule", RULES)
def test_every_engine_keeps_every_rule(make_policy: Callable[..., Policy], name: str, rule: str) -> None:
    make_engine, options = ENGINES[name]
    RULES[rule](make_engine(), quick_to_end(make_policy(**options)))


# ---------------------------------------------------------------------- engines that break a rule


class Broken(TransformersEngine):
    """Passes requests, sampling and completions through functions that a broken engine replaces."""

    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return requests, sampling

    def answered(self, completions: list[Completion], sampling: Sampling) -> list[Completion]:
        return completions

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return self.answered(super().generate(*self.asked(list(requests), sampling)), sampling)


class OtherLogprobs(Broken):
    """Log-probs that are off by a thousandth."""

    def answered(self, completions: list[Completion], sampling: Sampling) -> list[Completion]:
        return [Completion(one.tokens, [value - 1e-3 for value in one.logprobs]) for one in completions]


class OneStreamForAll(Broken):
    """Draws depend on the batch."""

    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return [replace(request, stream=requests[0].stream) for request in requests], sampling


class InItsOwnOrder(Broken):
    def answered(self, completions: list[Completion], sampling: Sampling) -> list[Completion]:
        return sorted(completions, key=lambda one: one.tokens)


class SyncsOnce(Broken):
    """Goes on with a copy of the first weights."""

    def sync(self, policy: Policy) -> None:
        if not hasattr(self, "copy"):
            self.copy = copy.deepcopy(policy)
        super().sync(self.copy)


class KeepsOldCaches(Broken):
    """Goes on with the caches of the first weights."""

    def sync(self, policy: Policy) -> None:
        if not hasattr(self, "synced"):
            super().sync(policy)
        self.synced, self.prefilled, self.generated = True, 0, 0


class NeverForgets(Broken):
    def release(self, sessions: Sequence[int]) -> None:
        pass


class KeepsEverything(Broken):
    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return [replace(request, keep=True) for request in requests], sampling


class CutsTheEnd(Broken):
    """Leaves the end token out, as a text would."""

    def sync(self, policy: Policy) -> None:
        super().sync(policy)
        self.ends = policy.end_tokens

    def answered(self, completions: list[Completion], sampling: Sampling) -> list[Completion]:
        kept = [len(one.tokens) - (one.tokens[-1] in self.ends) for one in completions]
        return [Completion(one.tokens[:n], one.logprobs[:n]) for n, one in zip(kept, completions, strict=True)]


class GoesOn(Broken):
    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return requests, replace(sampling, max_new_tokens=sampling.max_new_tokens + 1)


class NeverGreedy(Broken):
    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return requests, replace(sampling, temperature=sampling.temperature or 1.0)


class IgnoresStops(Broken):
    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        return requests, replace(sampling, stop=[])


class CountsRequests(Broken):
    def answered(self, completions: list[Completion], sampling: Sampling) -> list[Completion]:
        self.generated = len(completions)
        return completions


class SessionsNeverChange(Broken):
    """Answers a session's second prompt as if it continued the first."""

    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        seen = self.__dict__.setdefault("seen", {})
        return [replace(one, prompt=seen.setdefault(one.session, one.prompt)) for one in requests], sampling


class CutsPrompts(Broken):
    """Silently drops the beginning of a prompt that is too long."""

    def asked(self, requests: list[Request], sampling: Sampling) -> tuple[list[Request], Sampling]:
        limit = 2048 - sampling.max_new_tokens
        return [replace(request, prompt=request.prompt[-limit:]) for request in requests], sampling


class LeavesEvalMode(Broken):
    def sync(self, policy: Policy) -> None:
        super().sync(policy)
        policy.eval()


BROKEN = {
    "logprobs_are_the_trainers": OtherLogprobs,
    "tokens_depend_on_prompt_and_stream_only": OneStreamForAll,
    "completions_come_in_the_order_of_requests": InItsOwnOrder,
    "sync_makes_new_weights_visible_every_time": SyncsOnce,
    "release_forgets": NeverForgets,
    "what_is_not_to_be_kept_is_not": KeepsEverything,
    "a_session_may_begin_anew": SessionsNeverChange,
    "an_end_token_is_the_last": CutsTheEnd,
    "max_new_tokens_is_the_limit": GoesOn,
    "temperature_zero_is_greedy": NeverGreedy,
    "a_stop_string_ends_a_response": IgnoresStops,
    "tokens_are_counted": CountsRequests,
    "what_the_model_cannot_read_is_refused": CutsPrompts,
    "the_policy_is_left_as_it_was": LeavesEvalMode,
}


@pytest.mark.parametrize(
    ("rule", "engine"), [*BROKEN.items(), ("sync_makes_new_weights_visible_every_time", KeepsOldCaches)]
)
def test_a_broken_engine_fails(make_policy: Callable[..., Policy], rule: str, engine: type[Broken]) -> None:
    assert BROKEN.keys() == RULES.keys()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        RULES[rule](engine(), quick_to_end(make_policy()))
