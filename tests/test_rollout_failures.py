"""Sessions that raise, hang, or return nonsense: retried, closed, left out, counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import worlds
from helpers.plays import TOKENS, Dice, only, run, summary
from helpers.worlds import Echo, EchoSession, answers, eventually

from sdar_pl.engines.base import Completion, Request, Sampling
from sdar_pl.environments.base import Session
from sdar_pl.errors import UserError
from sdar_pl.rollout import PlayRules
from sdar_pl.sampling import threads
from sdar_pl.types import Task


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
        (worlds.Unprintable, "MuteError without a text"),
        (worlds.Wrong, "returned str instead of an Observation"),
        (worlds.Hangs, "no answer within 0.4 s"),
        (answers(reward=float("nan")), "Observation.reward is nan; must be a finite number"),
        (answers(text=None), "Observation.text is None; must be a text"),
        (answers(text="\ud800"), "Observation.text has a lone surrogate"),
        (answers(success=True, done=False), "Observation.success without Observation.done"),
        (worlds.Ended, "reset() returned done or a reward; only step() may"),
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


def test_numpy_scalars_pass_and_become_plain() -> None:
    fields = {"text": np.str_("you see"), "reward": np.float32(0.5), "done": np.bool_(False), "admissible": ["look"]}
    fields["score"] = np.float32(0.25)
    turns = [turn for episode in run(Echo(make=only(2, answers(**fields), 99))) for turn in episode.turns]
    types = {type(value) for turn in turns for value in vars(turn.observation).values()}
    assert types == {str, tuple, float, bool, type(None)}, "the other sessions have no score"
    assert {turn.observation.score for turn in turns} == {None, 0.25}
    assert {turn.reward for turn in turns} == {0.0, 0.5, 1.0}


def test_too_many_hung_sessions_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit, a session that hangs for ever would leave a thread behind at every retry."""
    others, before = threads.hung(), threading.active_count()  # other tests' sessions come back later
    monkeypatch.setattr(threads, "MOST_HUNG", others + 4)
    worlds.HangsOpening.release.clear()
    with pytest.raises(
        UserError, match=r"^data\.environment: sessions of Echo hang: \d+ calls .*data\.play\.step_timeout"
    ):
        run(Echo(make=lambda task, count: worlds.HangsOpening(task, 3, [])), PlayRules(step_timeout=0.2, workers=3))
    assert threading.active_count() <= before + 4 + 3
    worlds.HangsOpening.release.set()
    eventually(lambda: threads.hung() <= others and threading.active_count() <= before)


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
