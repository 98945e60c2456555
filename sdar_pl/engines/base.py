"""What an engine is: tokens in, tokens and their log-probs out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdar_pl.checks import at_least, between
from sdar_pl.errors import UserError

if TYPE_CHECKING:
    from sdar_pl.modeling.memory import Memory
    from sdar_pl.modeling.skeleton import Skeleton
    from sdar_pl.policy import Policy


@dataclass
class Sampling:
    """How responses are drawn.

    Args:
        temperature: divides the logits before the softmax, ≥ 0; 0 takes the likeliest token.
        top_p: draw from the likeliest tokens that reach this probability together, in (0, 1]; 1 draws from all.
        top_k: draw from this many of the likeliest tokens, ≥ 0; 0 draws from all.
        max_new_tokens: tokens of a response at most, ≥ 1.
        stop: strings that end a response; the string itself belongs to the response.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    stop: list[str] = field(default_factory=list)

    def check(self, key: str) -> Sampling:
        """Raises ``UserError`` for a number out of range, by its name below ``key``."""
        at_least(f"{key}.temperature", self.temperature, 0)
        between(f"{key}.top_p", self.top_p, 0, 1, ends="(]")
        at_least(f"{key}.top_k", self.top_k, 0)
        at_least(f"{key}.max_new_tokens", self.max_new_tokens, 1)
        if "" in self.stop:
            raise UserError(f"{key}.stop: ''; every response would end at its first token")
        return self


@dataclass
class Request:
    """One wanted response.

    Args:
        session: the episode's number; an engine may keep its KV cache between turns.
        prompt: tokens of the whole context so far.
        stream: the episode's own random stream: what is sampled does not depend on the rows beside it.
        keep: the session's next prompt may continue this one; False (``windowed`` history) keeps no cache.
    """

    session: int
    prompt: list[int]
    stream: np.random.Generator
    keep: bool = True


def refuse_repeated_sessions(requests: Sequence[Request]) -> None:
    """Raises ``ValueError`` for two requests of one session: the second one would continue the first one's response."""
    for session, count in Counter(request.session for request in requests).items():
        if count > 1:
            raise ValueError(f"generate: {count} requests of session {session}; ask for one after the other")


@dataclass
class Completion:
    """One response.

    Args:
        tokens: the sampled tokens; the last is the end token where the response ended by itself.
        logprobs: one a token, in nats, under softmax(logits / temperature), before top-p and top-k.
        likely: the ``Engine.likely`` likeliest tokens at each position with their log-probs (``Turn.likely``).
    """

    tokens: list[int]
    logprobs: list[float]
    likely: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RolloutSize:
    """How much one rank generates at most, for ``Engine.memory``.

    Args:
        sessions: episodes of an iteration on this rank.
        prompt_tokens: tokens of the longest prompt.
        response_tokens: tokens of the longest response.
        keep: prompts continue each other, as ``Request.keep`` says.
        on_gpu: the rank computes on a CUDA device.
    """

    sessions: int
    prompt_tokens: int
    response_tokens: int
    keep: bool
    on_gpu: bool = False


class Engine(ABC):
    """Generates responses with the current policy."""

    #: counted since ``sync``: tokens run through the model as prompt, and tokens sampled
    prefilled: int = 0
    generated: int = 0
    #: whether ``fit`` has something to choose
    auto: bool = False
    #: whether the log-probs are those of other weights or kernels than the trainer's
    off_policy: bool = False
    #: number of likeliest tokens that come with each sampled one; set for a correction that reads them
    likely: int = 0

    @abstractmethod
    def sync(self, policy: Policy) -> None:
        """Take the policy's current weights; everything cached under older ones is dropped."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order. Raises ``ValueError`` for two requests of one session."""

    def memory(self, model: Skeleton, rollout: RolloutSize) -> dict[str, Memory]:
        """Name → what a rollout takes beyond the policy's weights on a rank, for ``plan``; nothing is loaded.

        An engine in a process of its own takes nothing here.
        """
        return {}

    def fit(self, model: Skeleton, rollout: RolloutSize, usable: int) -> None:  # noqa: B027 - few have an auto
        """Choose what is ``auto`` such that ``memory`` takes at most ``usable`` bytes.

        Raises ``UserError`` where nothing does.
        """

    @abstractmethod
    def release(self, sessions: Sequence[int]) -> None:
        """These sessions have ended; forget their caches."""
