"""play(): sessions × engine → episodes.

All episodes advance together: one batched ``generate`` per round, then every session steps in its thread. A session
that raises or hangs is played again from the start on a fresh one; after ``retries`` it is given up and its episode
marked ``failed``: it takes part in no statistics and no loss. Sessions are always closed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Environment, Session
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
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
        step_timeout: seconds that a session may take for one step.
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


@dataclass
class Seat:
    """One episode in play. ``number`` names it for the engine; ``seed`` starts its random stream."""

    task: Task
    group: int
    index: int
    number: int
    seed: tuple[int, ...]
    context: str = ""
    student_context: str = ""
    attempt: int = 0
    session: Session | None = None
    episode: Episode | None = None
    stream: np.random.Generator = field(default_factory=np.random.default_rng)
    tokens: list[int] = field(default_factory=list)  # the context so far, as the engine sees it
    new: tuple[list[int], list[int]] = ([], [])  # this turn's new student and teacher prompt tokens


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
    ended: dict[int, Episode] = {}
    pool = ThreadPoolExecutor(rules.workers, thread_name_prefix="session")
    try:
        waiting, active = list(seats), list[Seat]()
        while waiting or active:
            started = _each(pool, [partial(_open, environment, seat) for seat in waiting], rules.step_timeout)
            waiting, active = _sort_out(waiting, started, active, rules, ended, engine)
            if not active:
                continue
            completions = engine.generate([_request(environment, prompter, seat) for seat in active], sampling)
            turns = [_turn(environment, seat, c, prompter) for seat, c in zip(active, completions, strict=True)]
            steps = [partial(_step, seat, turn) for seat, turn in zip(active, turns, strict=True)]
            stepped = _each(pool, steps, rules.step_timeout)
            waiting, active = _sort_out(active, stepped, [], rules, ended, engine)
            active = _end(active, prompter, rules, ended, engine, progress)
        episodes = [ended[seat.number] for seat in seats]
    finally:
        for seat in seats:
            _close(seat)
        pool.shutdown(wait=False, cancel_futures=True)
    failed = [episode for episode in episodes if episode.failed]
    if len(failed) > rules.max_failed * len(episodes):
        raise UserError(
            f"data.environment: {len(failed)} of {len(episodes)} episodes failed, more than data.play.max_failed "
            f"({rules.max_failed:g}); the last said: {failed[-1].failed}"
        )
    return episodes


# ---------------------------------------------------------------------- sessions


def _open(environment: Environment, seat: Seat) -> None:
    session = environment.session(seat.task)
    seat.session = session
    first = _checked(session.reset())
    seat.episode = Episode(
        seat.task, seat.group, seat.index, first, context=seat.context, student_context=seat.student_context
    )
    seat.stream = np.random.default_rng([*seat.seed, seat.attempt])
    seat.tokens = []


def _step(seat: Seat, turn: Turn) -> None:
    # Taken now: if this step hangs, the seat may hold a fresh session and episode when it comes back.
    session, episode = seat.session, seat.episode
    assert session is not None and episode is not None
    turn.observation = _checked(session.step(turn.action))
    episode.turns.append(turn)


def _checked(observation: object) -> Observation:
    if not isinstance(observation, Observation):
        raise TypeError(f"the session answered {type(observation).__name__} instead of an Observation")
    return observation


def _close(seat: Seat) -> None:
    if seat.session is not None:
        try:
            seat.session.close()
        except Exception as error:
            warnings.warn(f"closing a session of {seat.task.id}: {error}", stacklevel=2)
        seat.session = None


def _each(pool: ThreadPoolExecutor, calls: Sequence[Callable[[], None]], timeout: float) -> list[str]:
    """Run the calls in parallel → for each "" or what went wrong."""
    futures: list[Future[None]] = [pool.submit(call) for call in calls]
    results = []
    for future in futures:
        try:
            future.result(timeout)
            results.append("")
        except FutureTimeout:
            results.append(f"no answer within {timeout:g} s")
        except UserError:
            raise
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")
    return results


def _sort_out(
    seats: Sequence[Seat], said: Sequence[str], active: list[Seat], rules: Play, ended: dict[int, Episode], engine: Engine
) -> tuple[list[Seat], list[Seat]]:
    """(seats to open again, seats in play) after a round."""
    again = []
    for seat, wrong in zip(seats, said, strict=True):
        if not wrong:
            active.append(seat)
            continue
        _close(seat)
        engine.release([seat.number])
        seat.attempt += 1
        if seat.attempt <= rules.retries:
            again.append(seat)
        else:
            episode = seat.episode or Episode(seat.task, seat.group, seat.index, Observation(""))
            episode.failed = wrong
            ended[seat.number] = episode
            warnings.warn(f"task {seat.task.id} failed {seat.attempt} times and is left out: {wrong}", stacklevel=2)
    return again, active


# ---------------------------------------------------------------------- turns


def _request(environment: Environment, prompter: Prompter, seat: Seat) -> Request:
    assert seat.episode is not None
    student, teacher = prompter.prompts(environment, seat.episode)
    seat.tokens = student if prompter.history == "windowed" else [*seat.tokens, *student]
    seat.new = student, teacher
    return Request(seat.number, seat.tokens, seat.stream)


def _turn(environment: Environment, seat: Seat, completion: Completion, prompter: Prompter) -> Turn:
    student, teacher = seat.new
    text = prompter.decode(completion.tokens)
    action, valid = environment.parse(text)
    seat.tokens = [*seat.tokens, *completion.tokens]
    return Turn(student, completion.tokens, completion.logprobs, text, action, valid, Observation(""), teacher)


def _end(
    active: list[Seat],
    prompter: Prompter,
    rules: Play,
    ended: dict[int, Episode],
    engine: Engine,
    progress: Progress | None,
) -> list[Seat]:
    """Take out the seats whose episode is over."""
    going = []
    for seat in active:
        episode = seat.episode
        assert episode is not None
        over = episode.turns[-1].observation.done or len(episode.turns) >= rules.max_turns
        if not over and not prompter.full(seat.tokens):
            going.append(seat)
            continue
        episode.penalty = rules.invalid_penalty * sum(not turn.valid for turn in episode.turns)
        episode.overflow = not over
        ended[seat.number] = episode
        _close(seat)
        engine.release([seat.number])
        if progress is not None:
            progress(episode)
    return going
