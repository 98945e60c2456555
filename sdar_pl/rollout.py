"""play(): sessions × engine → episodes.

All episodes advance together: one batched ``generate`` for each turn, then the sessions step in threads
(sampling/threads.py). A session that raises or exceeds its time limit is replaced by a fresh one, and the episode
starts again. After ``retries`` such failures the episode is marked ``failed``: it takes part in no statistics and no
loss. Every session is closed, also one that returns after it was given up.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from sdar_pl.checks import at_least, between, positive
from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.environments.observations import ObservationError, received
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.sampling.slots import Attempt, EpisodeSlot
from sdar_pl.sampling.threads import NoAnswerError, TooManyHungError, run_all
from sdar_pl.types import Episode, Observation, Task, Turn

T = TypeVar("T")

#: Called with every episode that ends; as ``watch``, when it begins and after each of its turns.
Progress = Callable[[Episode], None]


@dataclass
class PlayRules:
    """Limits of an episode, and what happens to failed sessions.

    Args:
        max_turns: turns after which an episode ends; at least 1.
        invalid_penalty: what a response that breaks the format costs its own turn (data.advantage says how).
        retries: how often an episode starts again after its session failed.
        step_timeout: seconds that a session may take for one reset, step or close, not counting the wait for a thread.
        max_failed: share of an iteration's episodes (0 to 1) that may fail before the run stops.
        workers: number of threads that step sessions.
    """

    max_turns: int = 50
    invalid_penalty: float = 0.1
    retries: int = 2
    step_timeout: float = 60.0
    max_failed: float = 0.25
    workers: int = 16

    def __post_init__(self) -> None:
        at_least("data.play.max_turns", self.max_turns, 1)
        at_least("data.play.invalid_penalty", self.invalid_penalty, 0)
        at_least("data.play.retries", self.retries, 0)
        positive("data.play.step_timeout", self.step_timeout)
        between("data.play.max_failed", self.max_failed, 0, 1)
        at_least("data.play.workers", self.workers, 1)


def play(
    environment: Environment,
    slots: Sequence[EpisodeSlot],
    engine: Engine,
    prompter: Prompter,
    sampling: Sampling,
    rules: PlayRules,
    progress: Progress | None = None,
    watch: Progress | None = None,
) -> list[Episode]:
    """Play every slot to its end → episodes in the order of ``slots``.

    Raises ``UserError`` when more than ``rules.max_failed`` of the episodes failed.
    """
    players = _Players(environment, engine, prompter, sampling, rules, progress, watch)
    try:
        waiting, playing = list(slots), list[EpisodeSlot]()
        while waiting or playing:
            opened, waiting = players.open(waiting)
            playing += opened
            if playing:
                stepped, failed = players.turn(playing)
                waiting += failed
                playing = players.end(stepped)
    finally:
        players.close([slot for slot in slots if slot.attempt is not None])
        engine.release([slot.number for slot in slots])
    episodes = [players.ended[slot.number] for slot in slots]
    lost = [episode for episode in episodes if episode.failed]
    if len(lost) > rules.max_failed * len(episodes):
        raise UserError(
            f"data.environment: {len(lost)} of {len(episodes)} episodes failed, more than data.play.max_failed "
            f"({rules.max_failed:g}); the last error: {lost[-1].failed}"
        )
    return episodes


@dataclass
class _Players:
    """The parts that a play needs, and the episodes that have ended, by the slot's number."""

    environment: Environment
    engine: Engine
    prompter: Prompter
    sampling: Sampling
    rules: PlayRules
    progress: Progress | None
    watch: Progress | None
    ended: dict[int, Episode] = field(default_factory=dict)

    # ------------------------------------------------------------------ one round: open, turn, end

    def open(self, slots: Sequence[EpisodeSlot]) -> tuple[list[EpisodeSlot], list[EpisodeSlot]]:
        """Start a fresh session for each slot → (slots that play, slots to open again)."""
        for slot in slots:
            slot.attempt = Attempt(np.random.default_rng([*slot.seed, slot.failures]))
        observations, again = self._observe(slots, [partial(self._reset, slot.now, slot.task) for slot in slots])
        for slot, first in observations:
            slot.now.episode = Episode(
                slot.task, slot.group, slot.index, first, context=slot.context, student_context=slot.student_context
            )
            # A first prompt over its limit is the user's error, reported before any token is sampled.
            self._next_prompt(slot)
            self._show(slot)
        return [slot for slot, _ in observations], again

    def turn(self, slots: Sequence[EpisodeSlot]) -> tuple[list[EpisodeSlot], list[EpisodeSlot]]:
        """One response and one step for each slot → (slots that stepped, slots to open again)."""
        keep = self.prompter.history == "conversation"
        requests = [Request(slot.number, slot.now.tokens, slot.now.stream, keep) for slot in slots]
        completions = self.engine.generate(requests, self.sampling)
        turns = {slot.number: self._turn(slot, c) for slot, c in zip(slots, completions, strict=True)}
        observations, again = self._observe(
            slots, [partial(_step, slot.now, turns[slot.number].action) for slot in slots]
        )
        for slot, observation in observations:
            turns[slot.number].observation = observation
            slot.episode.turns.append(turns[slot.number])
            self._show(slot)
        return [slot for slot, _ in observations], again

    def end(self, slots: Sequence[EpisodeSlot]) -> list[EpisodeSlot]:
        """Finish the episodes that are over → the slots that go on, with the prompts of their next turns."""
        over = [slot for slot in slots if self._is_over(slot)]
        for slot in over:
            self._finish(slot)
        self.engine.release([slot.number for slot in over])
        self.close(over)
        return [slot for slot in slots if slot.number not in self.ended]

    def close(self, slots: Sequence[EpisodeSlot]) -> None:
        """Close the slots' sessions. An error in closing is a warning."""
        holding = [slot for slot in slots if slot.now.session]
        for slot in holding:
            slot.now.given_up = True
        results = self._run_all([slot.now.close for slot in holding])
        for slot, error in zip(holding, results, strict=True):
            if isinstance(error, BaseException):
                warnings.warn(f"closing a session of {slot.task.id}: {_in_words(error)}", stacklevel=2)

    # ------------------------------------------------------------------ sessions

    def _observe(
        self, slots: Sequence[EpisodeSlot], calls: Sequence[Callable[[], Observation]]
    ) -> tuple[list[tuple[EpisodeSlot, Observation]], list[EpisodeSlot]]:
        """Call each slot's session → (slots with their observations, slots to open again after a failure)."""
        observations, failures = list[tuple[EpisodeSlot, Observation]](), list[tuple[EpisodeSlot, str]]()
        answers = self._run_all(calls)
        for slot, answer in zip(slots, answers, strict=True):
            if isinstance(answer, UserError):
                raise answer
            if isinstance(answer, BaseException):
                failures.append((slot, _in_words(answer)))
            else:
                observations.append((slot, answer))
        return observations, self._retry(failures)

    def _run_all(self, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Make the calls in threads. Raises ``UserError`` where too many of a run's calls never return."""
        try:
            return run_all(calls, self.rules.step_timeout, self.rules.workers)
        except TooManyHungError as error:
            raise UserError(
                f"data.environment: sessions of {type(self.environment).__name__} hang: {error}; mend it, or raise "
                "data.play.step_timeout if it is only slow"
            ) from None

    def _retry(self, failures: Sequence[tuple[EpisodeSlot, str]]) -> list[EpisodeSlot]:
        """Close failed sessions → the slots to open again. An episode out of retries is marked ``failed``."""
        again = []
        for slot, _ in failures:
            slot.now.given_up = True
        self.close([slot for slot, _ in failures])
        self.engine.release([slot.number for slot, _ in failures])
        for slot, error in failures:
            slot.failures += 1
            if slot.failures <= self.rules.retries:
                again.append(slot)
                continue
            episode = slot.now.episode or Episode(slot.task, slot.group, slot.index, Observation(""))
            episode.failed = error
            self.ended[slot.number] = episode
            warnings.warn(f"task {slot.task.id} failed {slot.failures} times and is left out: {error}", stacklevel=2)
        return again

    def _reset(self, attempt: Attempt, task: Task) -> Observation:
        session = self.environment.session(task)
        attempt.session.append(session)
        if attempt.given_up:  # opening took longer than the time limit
            attempt.close()
            raise NoAnswerError("opened too late")  # read by nobody
        return received(session.reset(), first=True)

    # ------------------------------------------------------------------ turns

    def _next_prompt(self, slot: EpisodeSlot) -> None:
        now = slot.now
        now.prompt, now.teacher_prompt = self.prompter.prompts(self.environment, slot.episode)
        now.tokens = [*now.tokens, *now.prompt] if self.prompter.history == "conversation" else now.prompt

    def _turn(self, slot: EpisodeSlot, completion: Completion) -> Turn:
        now = slot.now
        text = self.prompter.decode(completion.tokens)
        action, valid = self.environment.parse(text)
        now.tokens = [*now.tokens, *completion.tokens]
        return Turn(
            now.prompt,
            completion.tokens,
            completion.logprobs,
            text,
            action,
            valid,
            Observation(""),  # until the session has answered
            now.teacher_prompt,
            penalty=0.0 if valid else self.rules.invalid_penalty,
            likely=completion.likely,
        )

    def _is_over(self, slot: EpisodeSlot) -> bool:
        """Whether the episode ends here. If it goes on, the slot has the prompt of its next turn."""
        episode = slot.episode
        if episode.turns[-1].observation.done or len(episode.turns) >= self.rules.max_turns:
            return True
        self._next_prompt(slot)
        episode.overflow = self.prompter.full(slot.now.tokens, episode)
        return episode.overflow

    def _show(self, slot: EpisodeSlot) -> None:
        if self.watch is not None:
            self.watch(slot.episode)

    def _finish(self, slot: EpisodeSlot) -> None:
        self.ended[slot.number] = slot.episode
        if self.progress is not None:
            self.progress(slot.episode)


def _step(attempt: Attempt, action: str) -> Observation:
    return received(attempt.session[0].step(action))


def _in_words(error: BaseException) -> str:
    if isinstance(error, (NoAnswerError, ObservationError)):
        return str(error)
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of an environment's own class of exceptions
        return f"{type(error).__name__} without a text"
