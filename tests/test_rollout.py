"""Playing episodes: what is recorded, and what happens when sessions misbehave."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from helpers import worlds
from helpers.models import make_tokenizer
from helpers.worlds import Echo, EchoSession, eventually

from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Session
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import PlayRules, play
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.types import Episode, Observation, Task

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


# ---------------------------------------------------------------------- plays


def test_a_play() -> None:
    engine, heard, world = Dice(), list[Episode](), Echo(turns=3)
    episodes = run(world, engine=engine, progress=heard.append)
    assert [episode.task.id for episode in episodes] == ["0", "1", "2", "3", "4", "5"]
    assert [(episode.group, episode.index) for episode in episodes] == [(n // 2, n % 2) for n in range(6)]
    assert all(episode.success and len(episode.turns) == 3 and not episode.overflow for episode in episodes)
    assert {id(episode) for episode in heard} == {id(episode) for episode in episodes}
    assert sorted(world.closed) == ["0", "1", "2", "3", "4", "5"]
    assert set(engine.released) == set(range(6))
    # The context that the engine sees is the prompts and responses so far, and nothing else.
    context: list[int] = []
    for asked, turn in zip([requests[0] for requests in engine.asked], episodes[0].turns, strict=True):
        context = context + turn.prompt
        assert asked.prompt == context
        assert asked.keep
        context = context + turn.response


def test_windowed_prompts_are_whole_and_not_kept() -> None:
    engine = Dice()
    episodes = run(Echo(), engine=engine, prompter={"history": "windowed"})
    for requests, turn in zip(engine.asked, episodes[2].turns, strict=True):
        assert requests[2].prompt == turn.prompt
        assert not requests[2].keep


def test_max_turns_and_penalties() -> None:
    episodes = run(Echo(turns=9), PlayRules(max_turns=4, invalid_penalty=0.25))
    for episode in episodes:
        assert len(episode.turns) == 4
        assert not episode.success
        assert not episode.overflow
        assert episode.reward == -0.25 * sum(not turn.valid for turn in episode.turns)
    assert {turn.valid for episode in episodes for turn in episode.turns} == {True, False}
    for episode in run(Echo(turns=2), PlayRules(invalid_penalty=0.25)):
        assert episode.reward == 1 - 0.25 * sum(not turn.valid for turn in episode.turns)


@pytest.mark.parametrize("limit", ["max_prompt_tokens", "max_teacher_tokens"])
def test_overflow_ends_a_conversation(limit: str) -> None:
    longest = {}
    low = 80 if limit == "max_prompt_tokens" else 110
    for bound in (2048, low):
        options = {"max_prompt_tokens": 2048, "max_teacher_tokens": 2048, limit: bound}
        episodes = run(Echo(turns=6), prompter=options, slots=slots(context="skill " * 5))
        sizes = []
        for episode in episodes:
            student = [token for turn in episode.turns for token in [*turn.prompt, *turn.response]]
            more = len(episode.turns[0].teacher_prompt) - len(episode.turns[0].prompt)
            assert more > 5
            sizes.append(len(student) - len(episode.turns[-1].response) + more * (limit == "max_teacher_tokens"))
            assert episode.overflow is (bound == low)
            assert episode.success is (bound == 2048)
            assert 1 <= len(episode.turns) <= 6
        longest[bound] = max(sizes)
    assert longest[low] <= low < longest[2048]


def test_a_first_prompt_over_the_limit_is_an_error() -> None:
    world = Echo()
    with pytest.raises(UserError, match=r"max_prompt_tokens.*task 0"):
        run(world, prompter={"max_prompt_tokens": 10})
    assert sorted(world.closed) == ["0", "1", "2", "3", "4", "5"], "sessions are closed all the same"


@pytest.mark.parametrize("workers", [1, 3, 64])
def test_the_number_of_threads_changes_nothing(workers: int) -> None:
    flaky = only(1, worlds.Raises, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = run(Echo(make=flaky), PlayRules(workers=7))
        other = run(Echo(make=flaky), PlayRules(workers=workers))
    assert summary(one) == summary(other)


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", [worlds.Raises, worlds.Wrong, worlds.Hangs])
def test_a_failure_is_played_again(kind: type[EchoSession]) -> None:
    engine = Dice()
    world = Echo(make=only(2, kind, 2))
    episodes = run(world, engine=engine)
    assert world.opened == {"0": 1, "1": 1, "2": 3, "3": 1, "4": 1, "5": 1}
    assert all(episode.success and not episode.failed and len(episode.turns) == 3 for episode in episodes)
    assert any(2 in forgotten for forgotten in engine.forgotten), "its cache goes before it is played again"
    # The third attempt has a stream of its own, so that a failure that an action causes need not come again.
    again = [request for requests in engine.asked for request in requests if request.session == 2]
    assert again[0].stream is not again[-1].stream
    firsts = [np.random.default_rng([5, 2, attempt]).integers(*TOKENS, size=3).tolist() for attempt in range(3)]
    assert episodes[2].turns[0].response == firsts[2] != firsts[0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (worlds.Raises, "ValueError: boom"),
        (worlds.Wrong, "returned str instead of an Observation"),
        (worlds.Hangs, "no answer within 0.4 s"),
    ],
)
def test_what_fails_too_often_is_given_up(kind: type[EchoSession], words: str) -> None:
    world, engine = Echo(make=only(2, kind, 99)), Dice()
    with pytest.warns(UserWarning, match="task 2 failed 3 times and is left out"):
        episodes = run(world, engine=engine)
    assert [bool(episode.failed) for episode in episodes] == [n == 2 for n in range(6)]
    assert words in episodes[2].failed
    assert world.opened["2"] == 3
    # The others are what they are without it.
    assert summary(run(Echo()))[3:] == summary(episodes)[3:]


def test_retries_none() -> None:
    world = Echo(make=only(2, worlds.Raises, 1))
    with pytest.warns(UserWarning, match="failed 1 times"):
        assert run(world, PlayRules(retries=0))[2].failed
    assert world.opened["2"] == 1


def test_too_many_failures_stop_the_run() -> None:
    world = Echo(make=lambda task, count: worlds.Raises(task, 3, []) if int(task.id) < 3 else None)
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(UserError, match=r"3 of 6 episodes failed.*max_failed.*boom"),
    ):
        run(world, PlayRules(max_failed=0.4))
    with pytest.warns(UserWarning, match="left out"):
        episodes = run(world, PlayRules(max_failed=0.5))
    assert sum(bool(episode.failed) for episode in episodes) == 3


def test_a_users_error_is_no_failure() -> None:
    world = Echo(make=only(2, worlds.Missing, 99))
    with pytest.raises(UserError, match=r"games\.zip"):
        run(world)
    assert world.opened["2"] == 1


def test_every_session_is_closed_once() -> None:
    log: list[str] = []

    class Closes(worlds.Raises):
        def close(self) -> None:
            log.append(self.task.id)
            raise OSError("already gone")

    world = Echo(make=lambda task, count: Closes(task, 3, log) if task.id == "1" and count == 0 else None)
    with pytest.warns(UserWarning, match="closing a session of 1: OSError: already gone"):
        episodes = run(world)
    assert not any(episode.failed for episode in episodes)
    assert log == ["1"]
    assert sorted(world.closed) == ["0", "1", "2", "3", "4", "5"]


def test_an_engine_that_fails_leaves_no_session_open() -> None:
    class Broken(Dice):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
            if self.asked:
                raise RuntimeError("out of memory")
            return super().generate(requests, sampling)

    world = Echo()
    with pytest.raises(RuntimeError, match="out of memory"):
        run(world, engine=Broken())
    assert sorted(world.closed) == ["0", "1", "2", "3", "4", "5"]


def test_one_that_opens_too_late_reaches_nobody() -> None:
    """A session that hangs in reset comes back while another attempt of its slot is in play."""
    worlds.HangsOpening.release.clear()
    log: list[str] = []
    late = worlds.HangsOpening(Task("0", "echo", "task 0"), 3, log)

    class Releases(Dice):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
            worlds.HangsOpening.release.set()
            eventually(lambda: log == ["0"])
            return super().generate(requests, sampling)

    world = Echo(make=lambda task, count: late if task.id == "0" and count == 0 else None)
    episodes = run(world, engine=Releases())
    assert log == ["0"], "it is closed"
    assert late.number == 0, "and never stepped"
    assert episodes[0].success
    with_its_own_stream = np.random.default_rng([5, 0, 1]).integers(*TOKENS, size=3)
    assert episodes[0].turns[0].response == with_its_own_stream.tolist()


def test_a_session_that_is_made_too_late_is_closed() -> None:
    log: list[str] = []
    given_up = threading.Event()

    class Plays(Dice):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
            if any(request.session == 0 for request in requests):  # the second attempt
                given_up.set()
            return super().generate(requests, sampling)

    def make(task: Task, count: int) -> Session | None:
        if task.id != "0" or count:
            return None
        given_up.wait(30)
        return worlds.Missing(task, 3, log)  # would raise if it were reset

    episodes = run(Echo(make=make), engine=Plays())
    assert not any(episode.failed for episode in episodes)
    eventually(lambda: log == ["0"])


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "wrong", [{"max_turns": 0}, {"max_failed": 1.5}, {"retries": -1}, {"workers": 0}, {"step_timeout": 0.0}]
)
def test_bad_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"data.play.{next(iter(wrong))}"):
        PlayRules(**wrong)


def test_reward_is_what_the_environment_gave_less_penalties() -> None:
    class Gives(EchoSession):
        def step(self, action: str) -> Observation:
            self.number += 1
            return Observation("x", reward=0.5 * self.number, done=self.number == 2)

    episodes = run(Echo(make=lambda task, count: Gives(task, 2, [])), PlayRules(invalid_penalty=0.1))
    wrong = [sum(not turn.valid for turn in episode.turns) for episode in episodes]
    assert [episode.reward for episode in episodes] == pytest.approx([1.5 - 0.1 * number for number in wrong])
    assert not any(episode.success for episode in episodes)
