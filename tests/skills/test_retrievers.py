"""Retrievers: which skills a task gets, and what UCB learns."""

from __future__ import annotations

import json
import math
import sys

import pytest
from helpers.evidence import required

from sdar_pl.environments.household import Household
from sdar_pl.environments.household.game import KINDS
from sdar_pl.errors import UserError
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.retrievers import BM25, UCB, All, ByKind, Keyword, Random
from sdar_pl.types import Skill, Task

LIBRARY = SkillLibrary.builtin("household")
TASKS = [Task(f"t/{number}", KINDS[0], "put a mug in shelf") for number in range(20)]


def task(kind: str = KINDS[0], text: str = "put a mug in shelf", number: int = 0) -> Task:
    return Task(f"t/{number}", kind, text)


def special(*names: str) -> SkillLibrary:
    """A library of special skills, described by their names."""
    return SkillLibrary(tuple(Skill(name, name, ("kind",), "Do it.") for name in names))


def tried(retriever: UCB, **counts: tuple[int, int]) -> UCB:
    """The retriever after (episodes, successes) of each skill on TASKS' kind."""
    retriever.load_state_dict({KINDS[0]: {name: list(count) for name, count in counts.items()}})
    return retriever


def test_by_kind_and_all() -> None:
    assert [skill.kinds for skill in ByKind().retrieve(task(KINDS[3]), LIBRARY)] == [(), (KINDS[3],)]
    assert [skill.kinds for skill in ByKind().retrieve(task("other"), LIBRARY)] == [()]
    assert All().retrieve(task(), LIBRARY) == list(LIBRARY)


def test_random_is_a_function_of_seed_and_task() -> None:
    chosen = [Random(2, seed=3).retrieve(task(number=k), LIBRARY) for k in range(20)]
    assert chosen == [Random(2, seed=3).retrieve(task(number=k), LIBRARY) for k in range(20)]
    assert all(len(skills) == 3 and not skills[0].kinds for skills in chosen)
    assert len({tuple(s.name for s in skills) for skills in chosen}) > 3
    assert chosen != [Random(2, seed=4).retrieve(task(number=k), LIBRARY) for k in range(20)]


@pytest.mark.parametrize("library", ["household", "alfworld"])
@pytest.mark.parametrize("retriever", [Keyword, BM25])
def test_words_of_a_goal_find_its_skill(retriever: type[Keyword] | type[BM25], library: str) -> None:
    if retriever is BM25:
        required("bm25s", "BM25 retrieval")
    skills, chooser = SkillLibrary.builtin(library), retriever()
    for goal in Household(size="tiny").tasks("train")[:60]:
        assert [skill.kinds for skill in chooser.retrieve(goal, skills)] == [(), (goal.kind,)], goal.text


def test_keyword_counts_whole_words() -> None:
    drug = task(text="two drugs: heater, cleaner, placebo")
    assert [skill.name for skill in Keyword(5).retrieve(drug, LIBRARY)] == ["general", "two objects"]


def test_bm25_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"^data\.context\.retriever: BM25 .*sdar_pl\[search\]"):
        BM25()


@pytest.mark.parametrize("retriever", [Random, Keyword, UCB])
def test_at_least_one_skill(retriever: type[Random]) -> None:
    with pytest.raises(UserError, match=r"^data\.context\.retriever\.n: 0; must be ≥ 1$"):
        retriever(0)


def test_ucb_learns_which_skill_helps_a_kind() -> None:
    chooser = UCB(exploration=0.5)
    first = {chooser.retrieve(task(KINDS[4], number=k), LIBRARY)[1].name for k in range(30)}
    assert len(first) > 3  # untried: one iteration's tasks try different skills
    for k in range(200):
        skills = chooser.retrieve(task(KINDS[4], number=k), LIBRARY)
        chooser.update(task(KINDS[4]), skills, KINDS[4] in skills[1].kinds)
    counts = chooser.state_dict()[KINDS[4]]
    assert len(counts) == 6  # all were tried
    assert counts["cool and place"][0] > 140
    assert counts["cool and place"][0] == counts["cool and place"][1]
    assert KINDS[3] not in chooser.state_dict()  # what helps one kind says nothing of another

    again = UCB(exploration=0.5)
    again.load_state_dict(json.loads(json.dumps(chooser.state_dict())))
    probe = task(KINDS[4], number=999)
    assert again.retrieve(probe, LIBRARY) == chooser.retrieve(probe, LIBRARY)
    again.update(probe, LIBRARY.skills, True)
    assert chooser.state_dict()[KINDS[4]] == counts  # no shared state


def test_random_takes_one_skill_of_seed_0_by_default() -> None:
    assert [Random().retrieve(task, LIBRARY) for task in TASKS] == [
        Random(1, seed=0).retrieve(task, LIBRARY) for task in TASKS
    ]


@pytest.mark.parametrize(
    ("never", "first"),
    [
        (
            4,
            "often",
        ),  # N = 9: often 3/4 + √(ln 9 / 4) = 1.491, once 0/1 + √(ln 9 / 1) = 1.482, never √(ln 9 / 4) = 0.741
        (5, "once"),  # N = 10: often 1.509, once 1.517, never 0.679
    ],
)
def test_ucb_takes_the_highest_bound_of_ucb1(never: int, first: str) -> None:
    """Episodes of a third skill raise ln N, which counts for more where a skill was tried less."""
    library = special("never", "often", "once")
    retriever = tried(UCB(), never=(never, 0), often=(4, 3), once=(1, 0))
    assert [skill.name for skill in retriever.retrieve(TASKS[0], library)] == [first]


def test_exploration_weighs_the_confidence_term() -> None:
    library = special("once", "often")
    # N = 5: 3/4 + c·√(ln 5)/2 = c·√(ln 5) at c = 1.5/√(ln 5)
    equal = 1.5 / math.sqrt(math.log(5))
    for exploration, first in ((0.0, "often"), (0.99 * equal, "often"), (1.01 * equal, "once")):
        retriever = tried(UCB(exploration=exploration), once=(1, 0), often=(4, 3))
        assert [skill.name for skill in retriever.retrieve(TASKS[0], library)] == [first]


def test_ucb_takes_untried_skills_first_and_breaks_ties_by_seed_and_task() -> None:
    library = special("a", "b", "c")

    def chosen(retriever: UCB, **counts: tuple[int, int]) -> list[str]:
        return [tried(retriever, **counts).retrieve(task, library)[0].name for task in TASKS]

    untried = chosen(UCB(), a=(1, 1))
    assert set(untried) == {"b", "c"}
    assert untried == chosen(UCB(1, seed=0), a=(1, 1)) != chosen(UCB(seed=1), a=(1, 1))
    assert set(chosen(UCB(), a=(1, 1), b=(9, 0))) == {"c"}  # though the bound of a is 1 + √(ln 10) = 2.5
    assert set(chosen(UCB(), a=(4, 2), b=(4, 2), c=(4, 2))) == {"a", "b", "c"}
    # The tie-breaker never outweighs a difference: here of 1e-6.
    n = 1_000_000
    assert set(chosen(UCB(), a=(n, n // 2), b=(n, n // 2 + 1), c=(n, n // 2))) == {"b"}


def test_bm25_indexes_every_library_once(monkeypatch: pytest.MonkeyPatch) -> None:
    required("bm25s", "BM25 retrieval")
    import bm25s

    indexed: list[bm25s.BM25] = []

    class Counted(bm25s.BM25):
        def index(self, *args: object, **options: object) -> None:
            indexed.append(self)
            super().index(*args, **options)

    monkeypatch.setattr(bm25s, "BM25", Counted)
    retriever, goal = BM25(), Task("t", "kind", "heat the mug")
    forward, backward = special("heat", "cool", "clean"), special("clean", "cool", "heat")
    for library in (forward, forward, backward, backward, forward):
        assert [skill.name for skill in retriever.retrieve(goal, library)] == ["heat"]
    assert len(indexed) == 3, "once for each change of the library"
