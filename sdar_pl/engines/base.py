"""What an engine is: tokens in, tokens and their log-probs out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdar_pl.errors import UserError

if TYPE_CHECKING:
    from sdar_pl.modeling.memory import Memory
    from sdar_pl.modeling.skeleton import Skeleton
    from sdar_pl.policy import Policy


@dataclass
class Sampling:
    """How responses are drawn. ``temperature`` 0 is greedy; ``stop`` are strings that end a response."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrong = {
            "temperature": self.temperature < 0,
            "top_p": not 0 < self.top_p <= 1,
            "top_k": self.top_k < 0,
            "max_new_tokens": self.max_new_tokens < 1,
        }
        for name in (name for name, bad in wrong.items() if bad):
            raise UserError(f"sampling.{name}: {getattr(self, name)} is out of range")


@dataclass
class Request:
    """One response wanted. ``prompt`` is the whole context so far; ``session`` names the episode, so that an engine
    may keep its KV cache between turns; ``stream`` is the episode's own random stream, so that what is sampled
    does not depend on which other rows share the batch. ``keep`` False says that the session's next prompt will not
    go on from this one (``windowed`` history), so that nothing need be kept."""

    session: int
    prompt: list[int]
    stream: np.random.Generator
    keep: bool = True


@dataclass
class Completion:
    """``logprobs`` are under softmax(logits / temperature), before top-p and top-k. The end-of-turn token, where the
    response ended by itself, is its last token."""

    tokens: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class RolloutSize:
    """How much one rank generates at most, for ``Engine.memory``.

    Args:
        sessions: episodes of an iteration on this rank.
        prompt_tokens: tokens of the longest prompt.
        response_tokens: tokens of the longest response.
        keep: prompts continue each other, as ``Request.keep`` says.
    """

    sessions: int
    prompt_tokens: int
    response_tokens: int
    keep: bool


class Engine(ABC):
    """Generates responses with the current policy."""

    #: counted since ``sync``: tokens run through the model as prompt, and tokens sampled
    prefilled: int = 0
    generated: int = 0

    @abstractmethod
    def sync(self, policy: Policy) -> None:
        """Take the policy's current weights; everything cached under older ones is dropped."""

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order."""

    def memory(self, model: Skeleton, rollout: RolloutSize) -> dict[str, Memory]:
        """Name → what a rollout takes beyond the policy's weights on a rank, for ``plan``; nothing is loaded.

        An engine in a process of its own takes nothing here.
        """
        return {}

    @abstractmethod
    def release(self, sessions: Sequence[int]) -> None:
        """These sessions have ended; forget their caches."""
