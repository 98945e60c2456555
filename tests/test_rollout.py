"""Playing episodes: what is recorded, when they end, and what they earn."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from helpers import worlds
from helpers.plays import Dice, only, run, slots, summary
from helpers.worlds import Echo, EchoSession

from sdar_pl.errors import UserError
from sdar_pl.rollout import PlayRules
from sdar_pl.types import Episode, Observation

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


def test_a_watcher_sees_each_episode_grow() -> None:
    seen: list[tuple[str, int, bool]] = []
    flaky = only(1, worlds.Raises, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(
            Echo(turns=2, make=flaky), slots=slots(2), watch=lambda e: seen.append((e.task.id, len(e.turns), e.success))
        )
    assert [turns for task, turns, _ in seen if task == "0"] == [0, 1, 2]
    assert [turns for task, turns, _ in seen if task == "1"] == [0, 1, 0, 1, 2], (
        "its session failed, and it began again"
    )
    assert [success for _, turns, success in seen if turns == 2] == [True, True]


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
        assert [turn.penalty for turn in episode.turns] == [0.0 if turn.valid else 0.25 for turn in episode.turns]
        assert episode.penalty == 0.25 * sum(not turn.valid for turn in episode.turns)
        assert episode.reward == 0
    assert {turn.valid for episode in episodes for turn in episode.turns} == {True, False}
    for episode in run(Echo(turns=2), PlayRules(invalid_penalty=0.25)):
        assert episode.reward == 1


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


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "wrong", [{"max_turns": 0}, {"max_failed": 1.5}, {"retries": -1}, {"workers": 0}, {"step_timeout": 0.0}]
)
def test_bad_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"data.play.{next(iter(wrong))}"):
        PlayRules(**wrong)


def test_reward_is_what_the_environment_gave() -> None:
    class Gives(EchoSession):
        def step(self, action: str) -> Observation:
            self.number += 1
            return Observation("x", reward=0.5 * self.number, done=self.number == 2)

    episodes = run(Echo(make=lambda task, count: Gives(task, 2, [])), PlayRules(invalid_penalty=0.1))
    assert any(episode.penalty for episode in episodes)
    assert {episode.reward for episode in episodes} == {1.5}
    assert not any(episode.success for episode in episodes)
