"""Contexts from experience: what the teacher reads of a finished group, and that the student never does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS
from helpers.configs import built
from helpers.models import make_tokenizer

from sdar_pl.batch import rows_of
from sdar_pl.engines.base import Completion, Engine, Request, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.environments.household import Household
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.sampling.contexts import add_hindsight_contexts
from sdar_pl.skills.hindsight import Hindsight, ReferenceSolution, SiblingEpisode
from sdar_pl.skills.providers import ContextProvider, NoContext, SkillContext
from sdar_pl.types import Episode

CONTEXTS = CONFIGS / "contexts"
HOUSE = Household(size="tiny")
TASK = HOUSE.tasks("train")[0]
PLAN = HOUSE.expert_plan(TASK)


TOKENIZER = make_tokenizer()


class Script(Engine):
    """Session k says what its script says; an even one follows the expert, an odd one looks around."""

    def sync(self, policy: Any) -> None: ...
    def release(self, sessions: Sequence[int]) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        completions = []
        for request in requests:
            number = TOKENIZER.decode(request.prompt).count("<|assistant|>") - 1
            action = "look" if request.session % 2 else PLAN[number]
            tokens = TOKENIZER.encode(f"<action>{action}</action><|end|>")
            completions.append(Completion(tokens, [-1.0] * len(tokens)))
        return completions


def a_prompter(history: Any = "conversation") -> Prompter:
    prompter = Prompter(history=history, max_prompt_tokens=100_000, max_teacher_tokens=100_000)
    prompter.bind(TOKENIZER)
    return prompter


def played(context: ContextProvider, succeed: Sequence[bool]) -> list[Episode]:
    """One group: for each episode whether it follows the expert."""
    prompter = a_prompter()
    context.bind(HOUSE, 2)
    # The number of the session says how it plays (see Script).
    slots = [EpisodeSlot(TASK, 0, i, 2 * i + (not yes), (i,), context.provide(TASK)) for i, yes in enumerate(succeed)]
    episodes = play(HOUSE, slots, Script(), prompter, Sampling(), PlayRules(max_turns=len(PLAN)))
    assert [episode.success for episode in episodes] == list(succeed)
    add_hindsight_contexts(context, prompter, HOUSE, episodes)
    return episodes


def read(tokens: Sequence[int]) -> str:
    return TOKENIZER.decode(tokens)


def assert_only_the_teacher_reads(text: str, episodes: Sequence[Episode]) -> None:
    for index, episode in enumerate(episodes):
        (row,) = rows_of(episode, index, "conversation")  # which checks that the responses are the same
        assert text not in read(row.tokens)
        assert all(text not in read(turn.prompt) for turn in episode.turns)
        assert (text in read(row.teacher_tokens)) == (text in episode.context)
        if episode.context:
            # The student's row with the context as a system message in front, and nothing else.
            assert read(row.teacher_tokens) == f"<|system|>{episode.context}<|end|>{read(row.tokens)}"


def test_a_sibling_tells_what_it_did() -> None:
    good, bad, worse = played(SiblingEpisode(), [True, False, False])
    assert good.context == ""  # itself is no sibling
    assert not rows_of(good, 0, "conversation")[0].teacher_tokens
    for episode in (bad, worse):
        assert episode.context.startswith("Another attempt at this task succeeded.")
        assert [line.split(". ", 1)[1] for line in episode.context.splitlines()[1:]] == list(PLAN)
    assert_only_the_teacher_reads("Another attempt", [good, bad, worse])


def test_successful_siblings_teach_each_other_and_the_shortest_is_told() -> None:
    first, second = played(SiblingEpisode(), [True, True])
    assert first.context
    assert first.context == second.context
    longer = Episode(TASK, 0, 2, first.first, turns=[first.turns[0], *first.turns])
    assert SiblingEpisode().after(second, [longer, first, second]) == first.context


def test_no_successful_sibling_no_context() -> None:
    episodes = played(SiblingEpisode(), [False, False])
    assert all(episode.context == "" for episode in episodes)
    assert not any(rows_of(episode, 0, "conversation")[0].teacher_tokens for episode in episodes)


def test_a_sibling_of_another_group_is_a_stranger() -> None:
    good, bad = played(NoContext(), [True, False])
    bad.group = 1
    add_hindsight_contexts(SiblingEpisode(), a_prompter(), HOUSE, [good, bad])
    assert bad.context == ""


def test_observations_of_a_sibling() -> None:
    good, bad = played(SiblingEpisode(observations=True), [True, False])
    for turn in good.turns:
        assert f". {turn.action}\n{turn.observation.text}" in bad.context


def test_hindsight_reads_the_end_on_purpose() -> None:
    good, bad = played(Hindsight(), [True, False])
    assert "this attempt succeeds; it ends after" in good.context
    assert f"does not succeed; it ends after {len(PLAN)} turns" in bad.context
    for number, turn in enumerate(good.turns, 1):
        assert f"\n{number}. {turn.observation.text.strip()}" in good.context
    assert PLAN[0] not in good.context  # the feedback, not the actions
    assert_only_the_teacher_reads("Hindsight:", [good, bad])


def test_how_much_hindsight() -> None:
    good, _ = played(NoContext(), [True, False])
    last = good.turns[-1].observation.text.strip()
    assert Hindsight("none").after(good, []).endswith("turns.")
    assert Hindsight("last").after(good, []).endswith(f"turns. Feedback on its turns:\n{len(PLAN)}. {last}")
    assert f"1. {PLAN[0]}\n" in Hindsight(actions=True).after(good, [])


def test_reference_solution() -> None:
    episodes = played(ReferenceSolution(), [True, False])
    for episode in episodes:
        assert [line.split(". ", 1)[1] for line in episode.context.splitlines()[1:]] == list(PLAN)
    assert_only_the_teacher_reads("A solution of this task", episodes)


@pytest.mark.parametrize("late", [False, True])
def test_windowed_prompts_are_the_same_early_or_late(late: bool) -> None:
    """``reread`` makes the very prompts that are made during play."""
    skills = SkillContext()
    prompter = a_prompter("windowed")
    text = skills.provide(TASK)
    script = [TOKENIZER.encode(f"<action>{action}</action><|end|>") for action in PLAN]

    class Plan(Script):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
            response = script.pop(0)
            return [Completion(response, [0.0] * len(response))]

    (episode,) = play(HOUSE, [EpisodeSlot(TASK, 0, 0, 0, (0,), text)], Plan(), prompter, Sampling(), PlayRules())
    made, students = [turn.teacher_prompt for turn in episode.turns], [turn.prompt for turn in episode.turns]
    assert len(made) == len(PLAN)
    assert all(read(prompt).startswith(f"<|system|>{text}<|end|>") for prompt in made)
    if late:
        episode.context = ""
        prompter.reread(HOUSE, episode)
        assert not any(turn.teacher_prompt for turn in episode.turns)
        episode.context = text
    prompter.reread(HOUSE, episode)
    assert [turn.teacher_prompt for turn in episode.turns] == made
    assert [turn.prompt for turn in episode.turns] == students


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="group_size"):
        SiblingEpisode().bind(HOUSE, 1)

    class Bare(Household):
        expert_plan = Environment.expert_plan

    with pytest.raises(UserError, match="no reference solutions"):
        ReferenceSolution().bind(Bare(size="tiny"), 8)


@pytest.mark.parametrize("path", sorted(CONTEXTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_context_config(path: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(
        "data: {context: {class_path: sdar_pl.skills.providers.SkillContext, init_args: {library: alfworld}}}\n"
    )
    context = built(base, path).data.context
    context.bind(HOUSE, 8)
    if path.stem.endswith("skills"):
        assert len(context.library) == len(SkillContext("alfworld").library)  # the base's library stays
        assert "Useful skills" in context.provide(TASK)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("history", ["conversation", "windowed"])
def test_a_context_over_the_limit_is_left_out_with_a_word(history: str) -> None:
    good, _ = played(Hindsight(), [True, False])
    prompter = a_prompter(history)
    whole = sum(len(turn.prompt) + len(turn.response) for turn in good.turns) + len(TOKENIZER.encode(good.context)) + 2
    enough = whole - len(good.turns[-1].response)
    good.context = ""
    prompter.max_teacher_tokens = enough if history == "conversation" else 100_000
    add_hindsight_contexts(Hindsight(), prompter, HOUSE, [good])
    assert good.context
    good.context, prompter.max_teacher_tokens = "", len(good.turns[0].prompt) + 10
    with pytest.warns(UserWarning, match="without privileged context.*max_teacher_tokens"):
        add_hindsight_contexts(Hindsight(), prompter, HOUSE, [good])
    assert good.context == ""
    assert not any(turn.teacher_prompt for turn in good.turns)
    if history == "conversation":
        good.context, prompter.max_teacher_tokens = "", enough - 1
        with pytest.warns(UserWarning, match="without privileged context"):
            add_hindsight_contexts(Hindsight(), prompter, HOUSE, [good])
