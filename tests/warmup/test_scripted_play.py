"""Demonstrations that an environment's own expert and novice play."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.worlds import Echo

from sdar_pl.environments.base import Environment
from sdar_pl.environments.faults import Faulty
from sdar_pl.environments.household import Household
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.webshop import WebShop
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.skills.hindsight import SiblingEpisode
from sdar_pl.skills.providers import ContextProvider, NoContext, SkillContext
from sdar_pl.warmup import Demonstration, ScriptedPlay


def bound(
    tokenizer: Any,
    source: ScriptedPlay,
    world: Environment | None,
    context: ContextProvider | None = None,
    **options: Any,
) -> ScriptedPlay:
    prompter = Prompter(max_prompt_tokens=options.pop("limit", 100_000), **options)
    prompter.bind(tokenizer)
    source.bind(prompter, world, "train", context or NoContext(), 12)
    return source


def drawn(source: ScriptedPlay, count: int = 40, epoch: int = 0, seed: int = 0) -> list[Demonstration]:
    return list(source.draw(range(count), count, epoch, seed))


WORLDS: list[Environment] = [
    Household(size="tiny"),
    WebShop(think=False, show_admissible=False),
    SearchQA(),
    Faulty(Household(size="tiny")),
]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: type(world).__name__)
def test_the_expert_succeeds_and_the_novice_errs(world: Environment, tokenizer: Any) -> None:
    shares = []
    for source in ScriptedPlay(), ScriptedPlay(expert=0, novice=1):
        episodes = [one.episode for one in drawn(bound(tokenizer, source, world), 24)]
        assert all(turn.valid and world.parse(turn.text)[0] == turn.action for e in episodes for turn in e.turns)
        assert [episode.group for episode in episodes] == list(range(24))
        shares.append(sum(episode.success for episode in episodes) / len(episodes))
    assert shares[0] > 0.9
    assert shares[1] < 0.8


def test_three_kinds_of_episodes(tokenizer: Any) -> None:
    skills = SkillContext("household")
    source = bound(tokenizer, ScriptedPlay(0.5, 0.3, take_over=5), Household(size="tiny"), skills)
    played = drawn(source, 120)
    right = [one for one in played if one.episode.student_context == skills.provide(one.episode.task)]
    plain = [one for one in played if not one.episode.student_context]
    assert (len(right), len(plain)) == (pytest.approx(60, abs=15), pytest.approx(36, abs=14))
    late = [one.learnt_from for one in right]
    assert late.count(0) == pytest.approx(len(right) / 2, abs=12)
    assert {*late} == {0, 1, 2, 3, 4, 5}
    assert not any(one.learnt_from for one in played if one not in right), "a novice's episodes are learnt whole"
    wrong = [one for one in played if one not in right and one not in plain]
    assert all("Useful skills" in one.episode.student_context for one in wrong)
    success = [sum(one.episode.success for one in part) / len(part) for part in (right, plain, wrong)]
    assert success[0] > max(success[1:]) + 0.2


def test_a_demonstration_depends_on_seed_epoch_and_group_alone(tokenizer: Any) -> None:
    source = bound(tokenizer, ScriptedPlay(0.5, 0.5), Household(size="tiny"))
    whole = drawn(source, 6, epoch=2)
    share = list(source.draw([1, 3, 5], 6, 2, 0))
    assert share == whole[1::2]
    assert drawn(source, 6, epoch=3) != whole
    assert drawn(source, 6, epoch=2, seed=1) != whole


def test_prompts_are_those_of_a_rollout_in_either_history(tokenizer: Any) -> None:
    world = Household(size="tiny")
    (windowed,) = drawn(bound(tokenizer, ScriptedPlay(), world, history="windowed", window=1), 1)
    rows = windowed.rows(0, "windowed", 0.0)
    assert len(rows) == len(windowed.episode.turns) > 1
    assert all(row.tokens == [*t.prompt, *t.response] for row, t in zip(rows, windowed.episode.turns, strict=True))
    source = bound(tokenizer, ScriptedPlay(), world, limit=700)
    assert any(one.episode.overflow for one in drawn(source)), "an episode ends where the conversation outgrows"


def test_what_cannot_be_imitated_is_refused(tokenizer: Any) -> None:
    world, skills = Household(size="tiny"), SkillContext("household")
    refused: list[tuple[ScriptedPlay, Environment | None, ContextProvider | None, str]] = [
        (ScriptedPlay(), None, None, "data.environment: null; scripted play needs"),
        (ScriptedPlay(), Household(think=True), None, "data.environment.think: true"),
        (ScriptedPlay(), Echo(), None, "Echo has no scripted players"),
        (ScriptedPlay(0.5, 0.4), world, None, "data.demonstrations.expert: the shares leave"),
        (ScriptedPlay(), world, SiblingEpisode(), "data.context: is made of finished episodes"),
    ]
    for source, environment, context, message in refused:
        with pytest.raises(UserError, match=message):
            bound(tokenizer, source, environment, context)
    bound(tokenizer, ScriptedPlay(0.5, 0.4), world, skills)
    with pytest.raises(UserError, match=r"data.demonstrations.novice: 0.5, with expert 0.7 over 1"):
        ScriptedPlay(0.7, 0.5)
