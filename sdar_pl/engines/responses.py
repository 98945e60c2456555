"""Responses that grow token by token: what each draws, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdar_pl.engines.base import Completion, Request, Sampling
from sdar_pl.engines.inverse_cdf import draw
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy
from sdar_pl.runtime.finite import blame


class Responses:
    """One response a request.

    Args:
        policy: says which tokens end a response.
        requests: whose streams the tokens are drawn from.
        sampling: how they are drawn.
    """

    def __init__(self, policy: Policy, requests: Sequence[Request], sampling: Sampling) -> None:
        self.requests, self.completions = requests, [Completion([], []) for _ in requests]
        #: numbers of the requests whose response has ended
        self.ended: set[int] = set()
        self._policy, self._ends, self._sampling = policy, policy.end_tokens, sampling

    def draw(self, logits: Tensor, numbers: Sequence[int | None]) -> list[int]:
        """Logits [n, V] and the request of each row → a token for each row.

        Rows without a request and rows that have ended draw nothing from their streams; their token means nothing.
        """
        grows = [number is not None and number not in self.ended for number in numbers]
        random = self._sampling.temperature > 0
        uniforms = [
            self.requests[number].stream.random() if random and number is not None and alive else 0.5
            for number, alive in zip(numbers, grows, strict=True)
        ]
        try:
            tokens, logprobs = draw(logits, uniforms, self._sampling)
        except FloatingPointError as error:
            raise UserError(
                f"model.policy: no token can be drawn, the logits are not finite: {blame(self._policy)}; use weights "
                "that are, or go on from an earlier checkpoint with a lower learning rate"
            ) from error
        for number, alive, token, logprob in zip(numbers, grows, tokens, logprobs, strict=True):
            if number is not None and alive:
                completion = self.completions[number]
                completion.tokens.append(token)
                completion.logprobs.append(logprob)
                if self._over(completion):
                    self.ended.add(number)
        return tokens

    def _over(self, completion: Completion) -> bool:
        if len(completion.tokens) >= self._sampling.max_new_tokens or completion.tokens[-1] in self._ends:
            return True
        if not self._sampling.stop:
            return False
        # A stop string of n bytes spans at most n tokens; a few more absorb partial characters.
        longest = max(len(stop.encode()) for stop in self._sampling.stop) + 4
        tail = self._policy.tokenizer.decode(completion.tokens[-longest:])
        return any(stop in tail for stop in self._sampling.stop)
