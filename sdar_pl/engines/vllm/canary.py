"""The canary: fixed prompts whose completions must have the trainer's log-probs, on every server after every sync.

It finds an adapter that a server dropped or kept from an older version, a stale prefix cache, another base model,
another tokenizer or chat template, and a wrong ``--logprobs-mode``. One prompt is drawn at a temperature other than 1,
where raw and processed log-probs differ.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch

from sdar_pl.batch import Row, collate
from sdar_pl.engines.base import Sampling
from sdar_pl.engines.vllm.client import Client, Prompt, RefusedError
from sdar_pl.policy import Policy

#: the canary's texts, repeated up to a number of tokens, and its temperatures
TEXTS = ("You are in a room. What do you do? ", "Name the object on the shelf, then say where it belongs.")
#: the first fills the largest block of a prefix cache (16 tokens on most GPUs, 128 on a CPU, 256 at most)
PROMPTS = (288, 32)
TEMPERATURES = (1.0, 0.7)
#: tokens of a completion
LENGTH = 16
MESSAGES = [{"role": "user", "content": "Which way?"}]


#: prompt, −1 and completion → the trainer's log-probs of the completion, as ``Canary.expected`` returns them
Known = dict[tuple[int, ...], tuple[list[float], ...]]


class CanaryError(Exception):
    """A server answers otherwise than the trainer would. The message says how, and what mends it."""


@dataclass
class Canary:
    """What the trainer expects of a server.

    Args:
        policy: the policy with the weights of the last sync.
        adapter: name of the synced adapter, or of the base where the policy's adapters are off.
        tolerance: mean distance of log-probs in nats up to which a server passes.
        likely: number of likeliest tokens that the rollouts will ask for.
        known: prompt and completion → what ``expected`` returns.
        closed: the policy may have changed since the sync (data.ahead): only what is known is compared.
    """

    policy: Policy
    adapter: str
    tolerance: float
    likely: int = 0
    known: Known = field(default_factory=dict)
    closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, client: Client) -> None:
        """Raises ``CanaryError``, or the client's errors."""
        for number, (text, count, temperature) in enumerate(zip(TEXTS, PROMPTS, TEMPERATURES, strict=True)):
            tokens = list(islice(cycle(self.policy.tokenizer.encode(text, add_special_tokens=False)), count))
            sampling = Sampling(temperature=temperature, max_new_tokens=LENGTH)
            # An end token would cut a canary short, so that none ends it.
            sampled = client.complete(Prompt(self.adapter, tokens, 1000 + number, sampling, [], self.likely)).completion
            own, base, cold = self.expected(tokens, sampled.tokens, temperature)
            distance = _distance(own, sampled.logprobs)
            if distance <= self.tolerance:
                continue
            found = f"the canary's log-probs are {distance:.2g} nats from the trainer's (at most {self.tolerance:g})"
            if temperature != 1 and _distance(cold, sampled.logprobs) <= self.tolerance:
                raise CanaryError(f"{found}; they are raw: start it with --logprobs-mode processed_logprobs")
            if _distance(base, sampled.logprobs) <= self.tolerance:
                raise CanaryError(
                    f"{found}; they are the base model's: the adapter is dropped, restart the server with --enable-lora"
                )
            raise CanaryError(
                f"{found}: another base model, an older adapter or a stale cache; start it anew with "
                f"--model {self.policy.source.located()}"
            )

    def expected(self, prompt: list[int], tokens: list[int], temperature: float) -> tuple[list[float], ...]:
        """The trainer's log-probs of ``tokens`` after ``prompt``: its own, the base's, and its own at temperature 1."""
        key = (*prompt, -1, *tokens)
        with self._lock:  # readmission asks from the threads of requests
            if key not in self.known:
                if self.closed:
                    raise CanaryError("it samples other tokens than at the last sync; the next one compares it again")
                with self.policy.evaluating():
                    own = self._logprobs(prompt, tokens, temperature)
                    cold = self._logprobs(prompt, tokens, 1.0)
                    # peft cannot switch off what is off already.
                    with nullcontext() if adapters_are_off(self.policy) else self.policy.reference():
                        base = self._logprobs(prompt, tokens, temperature)
                self.known[key] = own, base, cold
            return self.known[key]

    def _logprobs(self, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
        positions = list(range(len(prompt), len(prompt) + len(tokens)))
        blank = [0] * len(tokens)
        row = Row(0, 0, [*prompt, *tokens], positions, blank, [0.0] * len(tokens))
        batch = collate([row]).to(self.policy.device)
        values: list[float] = self.policy.logprobs(batch, temperature=temperature).values[0].tolist()
        return values


def check_tokenizer(policy: Policy, client: Client) -> None:
    """Compare vocabulary and chat template, by the texts that they make. Raises ``CanaryError``.

    The server's splitting of text does not count, because it receives tokens. Its vocabulary decides on stop strings.
    """
    size = len(policy.tokenizer)
    some = sorted({size * n // 256 for n in range(256)})
    try:
        if any(client.text([token]) != policy.tokenizer.decode([token]) for token in some[:: max(1, len(some) // 16)]):
            raise CanaryError(f"its tokenizer is another; start it with --tokenizer {policy.source.located()}")
        theirs = policy.tokenizer.decode(client.template(MESSAGES))
    except RefusedError as error:
        raise CanaryError(
            f"its tokenizer or chat template cannot be read ({error}); is it the policy's model?"
        ) from error
    ours = policy.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    if theirs != ours:
        raise CanaryError(
            "its chat template is another; start it with --chat-template and the policy's chat_template.jinja"
        )


def adapters_are_off(policy: Policy) -> bool:
    """Whether the policy is in the reference view (``Policy.reference``, the teacher ``Initial``)."""
    return any(getattr(part, "disable_adapters", False) is True for part in policy.net.modules())


def _distance(ours: list[float], theirs: list[float]) -> float:
    return float(torch.tensor(ours).sub(torch.tensor(theirs)).abs().mean())
