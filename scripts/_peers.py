"""The cases of bench_peers.py and their clock, for both contestants; needs neither our package nor TRL."""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

#: words that are one token each in the tiny policy's vocabulary after a space
WORDS = ("shelf", "drawer", "cabinet", "fridge", "desk", "task", "room", "plate", "bowl", "bread", "apple", "tomato")
#: tokens of the first word, which no space precedes
FIRST = 2
GROUP = 8
#: tokens of the privileged context, the same for every task
CONTEXT = 96
PHASES = ("rollout", "score", "update")


class Case(NamedTuple):
    """Tokens of a group's prompt, a reply and an observation (with the template's own), number of turns, and tokens of
    a micro-batch of ``ours_fast``."""

    prompt: int
    reply: int
    observation: int
    turns: int
    budget: int = 16384

    @property
    def tokens(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.turns * self.reply + (self.turns - 1) * self.observation


CASES = {"one_turn": Case(256, 64, 0, 1, 800), "six_turns": Case(256, 24, 28, 6, 1900)}
SHAPES: dict[str, dict[str, int]] = {
    "11m": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def configuration(shape: str) -> Any:
    """A Qwen2 architecture."""
    from transformers import Qwen2Config

    return Qwen2Config(vocab_size=2048, tie_word_embeddings=True, max_position_embeddings=4096, **SHAPES[shape])


def text(seed: int, tokens: int) -> str:
    """Random words of that many tokens."""
    draw = random.Random(seed)
    return " ".join([WORDS[0], *(draw.choice(WORDS) for _ in range(tokens - FIRST))])


def reward(reply: str) -> float:
    """Of a text: it differs within a group."""
    return float(sum(map(ord, reply)) % 5)


class Frozen(NamedTuple):
    """One group for the comparison of loss and gradient: rows of tokens that share the prompt, where replies are."""

    rows: list[list[int]]
    positions: list[int]
    advantages: list[float]


def frozen(case: Case) -> Frozen:
    """The same group on every call."""
    draw = random.Random(0)
    prompt, length = [draw.randrange(20, 2000) for _ in range(case.prompt)], case.tokens - case.prompt
    rows = [[*prompt, *(draw.randrange(20, 2000) for _ in range(length))] for _ in range(GROUP)]
    starts = [case.prompt + turn * (case.reply + case.observation) for turn in range(case.turns)]
    positions = [start + k for start in starts for k in range(case.reply)]
    return Frozen(rows, positions, [draw.gauss(0, 1) for _ in rows])


class Clock:
    """Seconds of an iteration: of the CPU by phase, and of the wall."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        """An iteration begins."""
        self.phases = dict.fromkeys(PHASES[:2], 0.0)
        self.began = time.process_time(), time.perf_counter()

    def timed(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work``, whose time counts for ``phase``, without that of other phases inside."""

        def run(*args: Any, **options: Any) -> Any:
            began, counted = time.process_time(), sum(self.phases.values())
            try:
                return work(*args, **options)
            finally:
                inside = sum(self.phases.values()) - counted
                self.phases[phase] += time.process_time() - began - inside

        return run

    def end(self) -> None:
        """The iteration has ended. What is neither rollout nor score is the update."""
        total, wall = time.process_time() - self.began[0], time.perf_counter() - self.began[1]
        update = total - sum(self.phases.values())
        self.iterations.append({**self.phases, "update": update, "total": total, "wall": wall})
        self.start()

    def report(self, tokens: float) -> dict[str, float]:
        """Medians over the iterations, the process's highest resident set in GiB, and tokens of a row."""
        middle = {name: statistics.median(one[name] for one in self.iterations) for name in self.iterations[0]}
        return {**middle, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "tokens": tokens}
