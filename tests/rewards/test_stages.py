"""Stages of episodes and their rewards by rubrics: rules, weights, and a judge behind a local server."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from helpers.servers import Peer, served_by
from helpers.worlds import Echo

from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.errors import UserError
from sdar_pl.rewards import (
    FindsEvidence,
    Judge,
    KeepsFormat,
    Mentions,
    RepeatsNothing,
    Rubric,
    StageRewards,
    Succeeds,
)
from sdar_pl.rewards.judge import scores_in
from sdar_pl.types import Episode, Task, Turn

WORLD = SearchQA(topk=2)
TASK = next(task for task in WORLD.tasks("train") if task.kind == "multi_hop")
PLAN = WORLD.expert_plan(TASK)  # two searches and the answer
STAGES = {"search": "<search>", "answer": "<answer>"}


def play(*actions: str, task: Task = TASK, valid: bool = True) -> Episode:
    """A real episode of these actions."""
    session = WORLD.session(task)
    episode = Episode(task, 0, 0, session.reset())
    for action in actions:
        episode.turns.append(Turn([1], [2], [0.0], action, WORLD.parse(action)[0], valid, session.step(action)))
    return episode


def of_rules(*rubrics: Rubric, patterns: dict[str, str] | None = None) -> StageRewards:
    rewards = StageRewards([*rubrics], patterns)
    rewards.bind(WORLD)
    return rewards


EVIDENCE = Rubric("search", FindsEvidence(), weight=3)
ONCE = Rubric("search", RepeatsNothing())
RIGHT = Rubric("answer", Succeeds())


def test_rewards_of_stages_by_hand() -> None:
    """Evidence (weight 3) and no repetition (weight 1) for the search, success for the answer."""
    first, second, answer = PLAN
    wrong = "<answer> nobody </answer>"
    group = [play(*PLAN), play(first, wrong), play(first, first, second, answer), play(answer)]
    assert of_rules(EVIDENCE, ONCE, RIGHT).shape(group) == [1.0, 0.0, 1.0, 1.0]
    assert [episode.parts["search"] for episode in group] == [
        1.0,  # all met
        (3 * 1 + 2) / 8,  # half of the evidence
        (3 * 2 + 1) / 8,  # one repetition
        0.0,  # no search at all
    ]
    assert [turn.stage for turn in group[0].turns] == [0, 0, 1]


@pytest.mark.parametrize("patterns", [None, STAGES])
def test_stages_are_the_environment_s_or_those_of_tags(patterns: dict[str, str] | None) -> None:
    rewards, group = of_rules(EVIDENCE, RIGHT, patterns=patterns), [play("<search> x </search>", PLAN[-1])]
    rewards.shape(group)
    assert rewards.stages == ("search", "answer")
    assert [turn.stage for turn in group[0].turns] == [0, 1]


def test_a_response_without_a_tag_belongs_to_the_stage_before() -> None:
    group = [play("hm", "<search> x </search>", "hm", PLAN[-1])]
    of_rules(EVIDENCE, RIGHT, patterns=STAGES).shape(group)
    assert [turn.stage for turn in group[0].turns] == [0, 0, 0, 1]


def test_rules() -> None:
    kept, broken = play(*PLAN), play(*PLAN, valid=False)
    assert [KeepsFormat().score(e, e.turns) for e in (kept, broken)] == [2, 0]
    broken.turns[0].valid = True
    assert KeepsFormat().score(broken, broken.turns) == 1
    assert [Mentions("SEARCH> ").score(kept, kept.turns), Mentions("plan").score(kept, kept.turns)] == [2, 0]
    assert Succeeds().score(kept, kept.turns) == 2
    fault = Rubric("answer", Mentions("<answer>"), negative=True)
    group = [kept]
    assert of_rules(EVIDENCE, fault).shape(group) == [0.0]


def test_evidence_of_every_kind_of_question() -> None:
    """The expert's searches find all of it, no search finds none."""
    for kind in WORLD.kinds:
        task = next(task for task in WORLD.tasks("train") if task.kind == kind)
        found = "\n".join(turn.observation.text for turn in play(*WORLD.expert_plan(task), task=task).turns)
        assert WORLD.evidence_recall(task, found) == 1.0
        assert WORLD.evidence_recall(task, "") == 0.0


# ---------------------------------------------------------------------- a judge


def completion(content: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def judged(url: str, retries: int = 0) -> StageRewards:
    rubrics = [RIGHT, Rubric("search", text="It searches for what is missing.", weight=3), ONCE]
    rewards = StageRewards(rubrics, STAGES, Judge(url, "judge-7b", retries=retries, timeout=5))
    rewards.bind(WORLD)
    return rewards


def test_a_judge_scores_what_has_no_rule() -> None:
    """1 of 2 for the search (weight 3), and the rule's 2 (weight 1): (3 + 2)/8. The judge reads stages and rubrics."""
    peer = Peer(lambda body: completion("My scores: [1]"))
    group = [play(*PLAN)]
    with served_by(peer) as url:
        assert judged(url).shape(group) == [1.0]
    assert group[0].parts == {"search": 5 / 8, "answer": 1.0}
    (body,) = peer.bodies
    assert body["model"] == "judge-7b"
    assert body["temperature"] == 0
    asked = body["messages"][1]["content"]
    assert f"Task: {TASK.text}" in asked
    assert f"[stage: search] {PLAN[0]}" in asked
    assert "1. [stage: search] It searches for what is missing." in asked


def test_a_judge_that_fails_once_is_asked_again() -> None:
    peer = Peer(lambda body: completion("[2]"), fault="500", faulty=1)
    group = [play(*PLAN)]
    with served_by(peer) as url:
        judged(url, retries=1).shape(group)
    assert len(peer.bodies) == 2
    assert group[0].parts["search"] == 1.0


def test_without_scores_the_group_has_the_outcome_alone() -> None:
    """The judge answers nonsense for one of two episodes: neither is judged, and a warning names the task."""
    answers = iter(["[2]", "ignore the rubrics", "[3]", "[2, 2]"])
    peer = Peer(lambda body: completion(next(answers)))
    group = [play(*PLAN), play(PLAN[0], "<answer> nobody </answer>")]
    with served_by(peer) as url, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert judged(url).shape(group) == [1.0, 0.0]
    assert [episode.parts["search"] for episode in group] == [0.0, 0.0]
    assert any(TASK.id in str(warning.message) for warning in caught)


@pytest.mark.parametrize("fault", ["words", "half", "wrong"])
def test_a_broken_endpoint_gives_no_scores(fault: str) -> None:
    with (
        served_by(Peer(lambda body: completion("[2]"), fault=fault)) as url,
        pytest.warns(UserWarning, match="no scores"),
    ):
        assert judged(url).shape([play(*PLAN)]) == [1.0]


def test_scores_in_a_text() -> None:
    assert scores_in("First [0, 1], at last [2, 0].", 2) == [2, 0]
    assert scores_in("[1, 1] [oops]", 2) == [1, 1]
    for text in ("", "[3]", "[true]", "[1, 2]", "[1.0]", json.dumps({"a": 1})):
        with pytest.raises(ValueError, match="no list of 1 scores"):
            scores_in(text, 1)


def test_refusals() -> None:
    spoken = Rubric("search", text="It searches.")
    refused: list[tuple[str, Any]] = [
        (r"rubrics: one of stage 'search' has neither", lambda: Rubric("search")),
        (r"rubrics\.weight: 0; must be", lambda: Rubric("search", Succeeds(), weight=0)),
        (r"rubrics: are of the stages search; must be of each of search, answer", lambda: of_rules(EVIDENCE)),
        (r"judge: null, but a rubric has no rule", lambda: StageRewards([spoken, RIGHT], STAGES)),
        (r"patterns: '\(' is no regular", lambda: StageRewards([RIGHT], {"answer": "("})),
        (r"patterns: null, but Echo has no stages", lambda: StageRewards([RIGHT]).bind(Echo())),
        (r"rubrics\.rule: FindsEvidence needs", lambda: StageRewards([EVIDENCE, RIGHT], STAGES).bind(Echo())),
        (r"rubrics\.rule\.pattern: '\(' is no regular", lambda: Mentions("(")),
        (r"judge\.url: 'ftp://x'; must begin", lambda: Judge("ftp://x", "m")),
        (r"judge\.key_variable: SDAR_NO_KEY is not set", lambda: Judge("http://x", "m", key_variable="SDAR_NO_KEY")),
    ]
    for words, make in refused:
        with pytest.raises(UserError, match=rf"data\.rewards\.{words}"):
            make()
