"""play(): sessions × engine → episodes.

All episodes advance together: one batched ``generate`` per round, then the sessions step in threads (sampling/threads.py). A
session that raises or hangs is played again from the start on a fresh one; after ``retries`` it is given up and its
episode marked ``failed``: it takes part in no statistics and no loss. Sessions are always closed, those too that come
back after they were given up.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Environment, Session
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.sampling.threads import NoAnswerError, run_all
from sdar_pl.types import Episode, Observation, Task, Turn

#: called with every episode that ends
Progress = Callable[[Episode], None]


@dataclass
class PlayRules:
    """Rules of play.

    Args:
        max_turns: an episode ends after so many turns.
        invalid_penalty: subtracted from an episode's reward for each response that breaks the format.
        retries: how often a failed session is played again.
        step_timeout: seconds that a session may take for one reset, step or close (not counting the wait for a thread).
        max_failed: share of episodes that may fail before the run stops.
        workers: threads that step sessions.
    """

    max_turns: int = 50
    invalid_penalty: float = 0.1
    retries: int = 2
    step_timeout: float = 60.0
    max_failed: float = 0.25
    workers: int = 16

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise UserError(f"data.play.max_turns: {self.max_turns} must be 1 or more")
        if not 0 <= self.max_failed <= 1:
            raise UserError(f"data.play.max_failed: {self.max_failed} must lie between 0 and 1")
        if self.retries < 0:
            raise UserError(f"data.play.retries: {self.retries} must be 0 or more")
        if self.workers < 1:
            raise UserError(f"data.play.workers: {self.workers} must be 1 or more")
        if self.step_timeout <= 0:
            raise UserError(f"data.play.step_timeout: {self.step_timeout} must be more than 0 seconds")


@dataclass
class Attempt:
    """One try at an episode. Threads are given the attempt, never the slot: what a given-up one does reaches nobody."""

    stream: np.random.Generator
    session: list[Session] = field(default_factory=list)  # one, or none where it is not open
    given_up: bool = False
    episode: Episode | None = None
    tokens: list[int] = field(default_factory=list)  # the context so far, as the engine sees it
    new: tuple[list[int], list[int]] = ([], [])  # this turn's new student and teacher prompt tokens

    def close(self) -> None:
        """Close the session once, whoever comes first."""
        with contextlib.suppress(IndexError):
            self.session.pop().close()


@dataclass
class EpisodeSlot:
    """One episode to play. ``number`` names it for the engine; ``seed`` starts its random stream."""

    task: Task
    group: int
    index: int
    number: int
    seed: tuple[int, ...]
    context: str = ""
    student_context: str = ""
    failures: int = 0
    attempt: Attempt | None = None

    @property
    def now(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    @property
    def episode(self) -> Episode:
        assert self.now.episode is not None
        return self.now.episode


def play(
    environment: Environment,
    slots: Sequence[EpisodeSlot],
    engine: Engine,
    prompter: Prompter,
    sampling: Sampling,
    rules: PlayRules,
    progress: Progress | None = None,
) -> list[Episode]:
    """Play every slot to its end → episodes in the order of ``slots``.

    Raises ``UserError`` when more than ``rules.max_failed`` of the episodes failed.
    """
    table = _Players(environment, engine, prompter, sampling, rules, progress)
    try:
        waiting, active = list(slots), list[EpisodeSlot]()
        while waiting or active:
            opened, waiting = table.open(waiting)
            active += opened
            if active:
                active, failed = table.turn(active)
                waiting += failed
                active = table.end(active)
    finally:
        table.close([slot for slot in slots if slot.attempt is not None])
        engine.release([slot.number for slot in slots])
    episodes = [table.ended[slot.number] for slot in slots]
    lost = [episode for episode in episodes if episode.failed]
    if len(lost) > rules.max_failed * len(episodes):
        raise UserError(
            f"data.environment: {len(lost)} of {len(episodes)} episodes failed, more than data.play.max_failed "
            f"({rules.max_failed:g}); the last said: {lost[-1].failed}"
        )
    return episodes


@dataclass
class _Players:
    """What a play needs, and the episodes that have ended."""

    environment: Environment
    engine: Engine
    prompter: Prompter
    sampling: Sampling
    rules: PlayRules
    progress: Progress | None
    ended: dict[int, Episode] = field(default_factory=dict)

    def open(self, slots: Sequence[EpisodeSlot]) -> tuple[list[EpisodeSlot], list[EpisodeSlot]]:
        """Start a fresh session for each slot → (slots in play, slots to open again)."""
        for slot in slots:
            slot.attempt = Attempt(np.random.default_rng([*slot.seed, slot.failures]))
        firsts, playing, again = self._ask(slots, [partial(self._reset, slot.now, slot.task) for slot in slots])
        for slot, first in zip(playing, firsts, strict=True):
            slot.now.episode = Episode(
                slot.task, slot.group, slot.index, first, context=slot.context, student_context=slot.student_context
            )
            # A first prompt over its limit is the user's error, and said before any token is sampled.
            self._prompt(slot)
        return playing, again

    def turn(self, slots: Sequence[EpisodeSlot]) -> tuple[list[EpisodeSlot], list[EpisodeSlot]]:
        """One response and one step for each slot → (slots in play, slots to open again)."""
        keep = self.prompter.history == "conversation"
        requests = [Request(slot.number, slot.now.tokens, slot.now.stream, keep) for slot in slots]
        completions = self.engine.generate(requests, self.sampling)
        turns = {slot.number: self._turn(slot, answer) for slot, answer in zip(slots, completions, strict=True)}
        steps = [partial(_step, slot.now, turns[slot.number].action) for slot in slots]
        observations, playing, again = self._ask(slots, steps)
        for slot, observation in zip(playing, observations, strict=True):
            turns[slot.number].observation = observation
            slot.episode.turns.append(turns[slot.number])
        return playing, again

    def end(self, slots: Sequence[EpisodeSlot]) -> list[EpisodeSlot]:
        """Clear the slots whose episode is over → those in play, with the prompts of their next turns."""
        going = [slot for slot in slots if self._goes_on(slot)]
        over = [slot for slot in slots if slot.number in self.ended]
        self.engine.release([slot.number for slot in over])
        self.close(over)
        return going

    def close(self, slots: Sequence[EpisodeSlot]) -> None:
        """Close the slots' sessions. One that cannot be closed is warned of."""
        holding = [slot for slot in slots if slot.now.session]
        for slot in holding:
            slot.now.given_up = True
        said = run_all([slot.now.close for slot in holding], self.rules.step_timeout, self.rules.workers)
        for slot, error in zip(holding, said, strict=True):
            if isinstance(error, BaseException):
                warnings.warn(f"closing a session of {slot.task.id}: {_in_words(error)}", stacklevel=2)

    # ------------------------------------------------------------------ sessions

    def _ask(
        self, slots: Sequence[EpisodeSlot], calls: Sequence[Callable[[], object]]
    ) -> tuple[list[Observation], list[EpisodeSlot], list[EpisodeSlot]]:
        """Call each slot's session → (observations, their slots, slots to open again)."""
        observations, playing, lost = list[Observation](), list[EpisodeSlot](), list[tuple[EpisodeSlot, str]]()
        answers = run_all(calls, self.rules.step_timeout, self.rules.workers)
        for slot, answer in zip(slots, answers, strict=True):
            if isinstance(answer, UserError):
                raise answer
            if isinstance(answer, BaseException):
                lost.append((slot, _in_words(answer)))
            elif not isinstance(answer, Observation):
                lost.append((slot, f"the session answered {type(answer).__name__} instead of an Observation"))
            else:
                observations.append(answer)
                playing.append(slot)
        return observations, playing, self._retry_or_fail(lost)

    def _retry_or_fail(self, lost: Sequence[tuple[EpisodeSlot, str]]) -> list[EpisodeSlot]:
        """Clear the slots of failed sessions → those to open again."""
        again = []
        for slot, _ in lost:
            slot.now.given_up = True
        self.close([slot for slot, _ in lost])
        self.engine.release([slot.number for slot, _ in lost])
        for slot, wrong in lost:
            slot.failures += 1
            if slot.failures <= self.rules.retries:
                again.append(slot)
                continue
            episode = slot.now.episode or Episode(slot.task, slot.group, slot.index, Observation(""))
            episode.failed = wrong
            self.ended[slot.number] = episode
            warnings.warn(f"task {slot.task.id} failed {slot.failures} times and is left out: {wrong}", stacklevel=2)
        return again

    def _reset(self, attempt: Attempt, task: Task) -> object:
        session = self.environment.session(task)
        attempt.session.append(session)
        if attempt.given_up:  # opening it took too long; nobody waits for an answer
            attempt.close()
            return None
        return session.reset()

    # ------------------------------------------------------------------ turns

    def _prompt(self, slot: EpisodeSlot) -> None:
        student, teacher = self.prompter.prompts(self.environment, slot.episode)
        now = slot.now
        now.tokens = [*now.tokens, *student] if self.prompter.history == "conversation" else student
        now.new = student, teacher

    def _goes_on(self, slot: EpisodeSlot) -> bool:
        episode = slot.episode
        if not episode.turns[-1].observation.done and len(episode.turns) < self.rules.max_turns:
            self._prompt(slot)
            if not self.prompter.full(slot.now.tokens, episode):
                return True
            episode.overflow = True
        episode.penalty = self.rules.invalid_penalty * sum(not turn.valid for turn in episode.turns)
        self.ended[slot.number] = episode
        if self.progress is not None:
            self.progress(episode)
        return False

    def _turn(self, slot: EpisodeSlot, completion: Completion) -> Turn:
        student, teacher = slot.now.new
        text = self.prompter.decode(completion.tokens)
        action, valid = self.environment.parse(text)
        slot.now.tokens = [*slot.now.tokens, *completion.tokens]
        return Turn(student, completion.tokens, completion.logprobs, text, action, valid, Observation(""), teacher)


def _step(attempt: Attempt, action: str) -> object:
    return attempt.session[0].step(action)


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, NoAnswerError) else f"{type(error).__name__}: {error}"
