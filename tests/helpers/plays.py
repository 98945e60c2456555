"""Plays of the Echo world by an engine that rolls dice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from helpers.models import make_tokenizer
from helpers.worlds import Echo, EchoSession
from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Session
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules, play
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.types import Episode, Task

#: tokens of the made-up responses
TOKENS = (60, 80)
QUICK = PlayRules(step_timeout=0.4, workers=4)


class Dice(Engine):
    """Random tokens from the request's stream; notes what it was asked and told."""

    def __init__(self) -> None:
        self.asked: list[list[Request]] = []
        self.released: list[int] = []
        self.forgotten: list[set[int]] = []  # what had been released at each call

    def sync(self, policy: Any) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.asked.append(list(requests))
        self.forgotten.append(set(self.released))
        answers = []
        for request in requests:
            tokens = [int(t) for t in request.stream.integers(*TOKENS, size=3)]
            answers.append(Completion(tokens, [-1.0] * 3))
        return answers

    def release(self, sessions: Sequence[int]) -> None:
        self.released.extend(sessions)


def slots(count: int = 6, **options: Any) -> list[EpisodeSlot]:
    return [EpisodeSlot(Task(str(n), "echo", f"task {n}"), n // 2, n % 2, n, (5, n), **options) for n in range(count)]


def run(world: Echo, rules: PlayRules = QUICK, engine: Engine | None = None, **options: Any) -> list[Episode]:
    prompter = Prompter(**options.pop("prompter", {}))
    prompter.bind(make_tokenizer())
    return play(world, options.pop("slots", slots()), engine or Dice(), prompter, Sampling(), rules, **options)


def only(number: int, kind: type[EchoSession], times: int) -> Callable[[Task, int], Session | None]:
    """The first ``times`` sessions of one task are of this kind."""
    log: list[str] = []
    return lambda task, count: kind(task, 3, log) if task.id == str(number) and count < times else None


def summary(episodes: Sequence[Episode]) -> list[Any]:
    def of(e: Episode) -> tuple[Any, ...]:
        return e.task.id, e.group, e.index, e.failed, e.reward, e.turns

    return [of(episode) for episode in episodes]
