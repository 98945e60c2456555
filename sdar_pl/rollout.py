"""play(): sessions × engine → episodes.

All episodes advance together: one batched ``generate`` per round, then the sessions step in threads (crew.py). A
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
class Play:
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
    """One try at an episode. Threads are given the attempt, never the seat: what a given-up one does reaches nobody."""

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
class Seat:
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
    seats: Sequence[Seat],
    engine: Engine,
    prompter: Prompter,
    sampling: Sampling,
    rules: Play,
    progress: Progress | None = None,
) -> list[Episode]:
    """Play every seat to its end → episodes in the order of ``seats``.

    Raises ``UserError`` when more than ``rules.max_failed`` of the episodes failed.
    """
    table = _Table(environment, engine, prompter, sampling, rules, progress)
    try:
        waiting, active = list(seats), list[Seat]()
        while waiting or active:
            opened, waiting = table.open(waiting)
            active += opened
            if active:
                active, failed = table.turn(active)
                waiting += failed
                active = table.end(active)
    finally:
        table.close([seat for seat in seats if seat.attempt is not None])
        engine.release([seat.number for seat in seats])
    episodes = [table.ended[seat.number] for seat in seats]
    lost = [episode for episode in episodes if episode.failed]
    if len(lost) > rules.max_failed * len(episodes):
        raise UserError(
            f"data.environment: {len(lost)} of {len(episodes)} episodes failed, more than data.play.max_failed "
            f"({rules.max_failed:g}); the last said: {lost[-1].failed}"
        )
    return episodes


@dataclass
class _Table:
    """What a play needs, and the episodes that have ended."""

    environment: Environment
    engine: Engine
    prompter: Prompter
    sampling: Sampling
    rules: Play
    progress: Progress | None
    ended: dict[int, Episode] = field(default_factory=dict)

    def open(self, seats: Sequence[Seat]) -> tuple[list[Seat], list[Seat]]:
        """Start a fresh session for each seat → (seats in play, seats to open again)."""
        for seat in seats:
            seat.attempt = Attempt(np.random.default_rng([*seat.seed, seat.failures]))
        firsts, playing, again = self._ask(seats, [partial(self._reset, seat.now, seat.task) for seat in seats])
        for seat, first in zip(playing, firsts, strict=True):
            seat.now.episode = Episode(
                seat.task, seat.group, seat.index, first, context=seat.context, student_context=seat.student_context
            )
            # A first prompt over its limit is the user's error, and said before any token is sampled.
            self._prompt(seat)
        return playing, again

    def turn(self, seats: Sequence[Seat]) -> tuple[list[Seat], list[Seat]]:
        """One response and one step for each seat → (seats in play, seats to open again)."""
        keep = self.prompter.history == "conversation"
        requests = [Request(seat.number, seat.now.tokens, seat.now.stream, keep) for seat in seats]
        completions = self.engine.generate(requests, self.sampling)
        turns = {seat.number: self._turn(seat, answer) for seat, answer in zip(seats, completions, strict=True)}
        steps = [partial(_step, seat.now, turns[seat.number].action) for seat in seats]
        observations, playing, again = self._ask(seats, steps)
        for seat, observation in zip(playing, observations, strict=True):
            turns[seat.number].observation = observation
            seat.episode.turns.append(turns[seat.number])
        return playing, again

    def end(self, seats: Sequence[Seat]) -> list[Seat]:
        """Clear the seats whose episode is over → those in play, with the prompts of their next turns."""
        going = [seat for seat in seats if self._goes_on(seat)]
        over = [seat for seat in seats if seat.number in self.ended]
        self.engine.release([seat.number for seat in over])
        self.close(over)
        return going

    def close(self, seats: Sequence[Seat]) -> None:
        """Close the seats' sessions. One that cannot be closed is warned of."""
        holding = [seat for seat in seats if seat.now.session]
        for seat in holding:
            seat.now.given_up = True
        said = run_all([seat.now.close for seat in holding], self.rules.step_timeout, self.rules.workers)
        for seat, error in zip(holding, said, strict=True):
            if isinstance(error, BaseException):
                warnings.warn(f"closing a session of {seat.task.id}: {_in_words(error)}", stacklevel=2)

    # ------------------------------------------------------------------ sessions

    def _ask(
        self, seats: Sequence[Seat], calls: Sequence[Callable[[], object]]
    ) -> tuple[list[Observation], list[Seat], list[Seat]]:
        """Call each seat's session → (observations, their seats, seats to open again)."""
        observations, playing, lost = list[Observation](), list[Seat](), list[tuple[Seat, str]]()
        answers = run_all(calls, self.rules.step_timeout, self.rules.workers)
        for seat, answer in zip(seats, answers, strict=True):
            if isinstance(answer, UserError):
                raise answer
            if isinstance(answer, BaseException):
                lost.append((seat, _in_words(answer)))
            elif not isinstance(answer, Observation):
                lost.append((seat, f"the session answered {type(answer).__name__} instead of an Observation"))
            else:
                observations.append(answer)
                playing.append(seat)
        return observations, playing, self._sort_out(lost)

    def _sort_out(self, lost: Sequence[tuple[Seat, str]]) -> list[Seat]:
        """Clear the seats of failed sessions → those to open again."""
        again = []
        for seat, _ in lost:
            seat.now.given_up = True
        self.close([seat for seat, _ in lost])
        self.engine.release([seat.number for seat, _ in lost])
        for seat, wrong in lost:
            seat.failures += 1
            if seat.failures <= self.rules.retries:
                again.append(seat)
                continue
            episode = seat.now.episode or Episode(seat.task, seat.group, seat.index, Observation(""))
            episode.failed = wrong
            self.ended[seat.number] = episode
            warnings.warn(f"task {seat.task.id} failed {seat.failures} times and is left out: {wrong}", stacklevel=2)
        return again

    def _reset(self, attempt: Attempt, task: Task) -> object:
        session = self.environment.session(task)
        attempt.session.append(session)
        if attempt.given_up:  # opening it took too long; nobody waits for an answer
            attempt.close()
            return None
        return session.reset()

    # ------------------------------------------------------------------ turns

    def _prompt(self, seat: Seat) -> None:
        student, teacher = self.prompter.prompts(self.environment, seat.episode)
        now = seat.now
        now.tokens = [*now.tokens, *student] if self.prompter.history == "conversation" else student
        now.new = student, teacher

    def _goes_on(self, seat: Seat) -> bool:
        episode = seat.episode
        if not episode.turns[-1].observation.done and len(episode.turns) < self.rules.max_turns:
            self._prompt(seat)
            if not self.prompter.full(seat.now.tokens, episode):
                return True
            episode.overflow = True
        episode.penalty = self.rules.invalid_penalty * sum(not turn.valid for turn in episode.turns)
        self.ended[seat.number] = episode
        if self.progress is not None:
            self.progress(episode)
        return False

    def _turn(self, seat: Seat, completion: Completion) -> Turn:
        student, teacher = seat.now.new
        text = self.prompter.decode(completion.tokens)
        action, valid = self.environment.parse(text)
        seat.now.tokens = [*seat.now.tokens, *completion.tokens]
        return Turn(student, completion.tokens, completion.logprobs, text, action, valid, Observation(""), teacher)


def _step(attempt: Attempt, action: str) -> object:
    return attempt.session[0].step(action)


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, NoAnswerError) else f"{type(error).__name__}: {error}"
