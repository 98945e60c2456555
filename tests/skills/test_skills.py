"""Skill files, and skills as privileged context."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from helpers.evidence import required

from sdar_pl.environments.household import Household
from sdar_pl.environments.household.game import KINDS
from sdar_pl.environments.search_qa.questions import KINDS as QUESTION_KINDS
from sdar_pl.errors import UserError
from sdar_pl.skills.hindsight import Hindsight, ReferenceSolution, SiblingEpisode
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.providers import ContextProvider, NoContext, SkillContext
from sdar_pl.skills.retrievers import BM25, UCB, All, ByKind, Keyword, Random, Retriever
from sdar_pl.types import Task

LIBRARY = SkillLibrary.builtin("household")
GOOD = "---\nname: a\ndescription: b\nkinds: [x]\n---\nDo it.\n"


def task(kind: str = KINDS[0], text: str = "put a mug in shelf", number: int = 0) -> Task:
    return Task(f"t/{number}", kind, text)


@pytest.mark.parametrize(
    ("name", "kinds", "fewest", "most"),
    [
        ("household", KINDS, 35, 70),
        ("alfworld", KINDS, 60, 300),
        ("fiction", QUESTION_KINDS, 25, 50),
        ("search_qa", QUESTION_KINDS, 60, 300),
    ],
)
def test_builtin_libraries(name: str, kinds: tuple[str, ...], fewest: int, most: int) -> None:
    library = SkillLibrary.builtin(name)
    assert next(iter(library)).kinds == ()
    assert sorted(kind for skill in library for kind in skill.kinds) == sorted(kinds)
    assert all(fewest <= len(skill.text.split()) <= most for skill in library)
    if name in ("alfworld", "search_qa"):
        assert 550 <= sum(len(skill.text.split()) for skill in library) <= 900


def test_load(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(GOOD)
    (tmp_path / "b.md").write_text("---\nname: c\ndescription: d\n---\nOne.\n\n---\nTwo.\n")
    general, special = SkillLibrary.load(tmp_path)
    assert (special.name, special.description, special.kinds, special.text) == ("a", "b", ("x",), "Do it.")
    assert (general.name, general.kinds, general.text) == ("c", (), "One.\n\n---\nTwo.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no front matter"),
        ("Do it.", "has no front matter"),
        ("---\nname: a\nDo it.", "does not end"),
        ("---\nname: [a\n---\nDo it.", "not valid YAML"),
        ("---\njust words\n---\nDo it.", "keys and values"),
        ("---\ndescription: b\n---\nDo it.", "needs a name"),
        ("---\nname: a\ndescription: 3\n---\nDo it.", "needs a description"),
        ("---\nname: a\ndescription: b\nkind: x\n---\nDo it.", "unknown key 'kind'"),
        ("---\nname: a\ndescription: b\nkinds: x\n---\nDo it.", "must be a list"),
        ("---\nname: a\ndescription: b\n---\n\n", "has no text"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.md").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        SkillLibrary.load(tmp_path)
    assert str(tmp_path / "bad.md") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.context\.folder: .*missing does not exist"):
        SkillLibrary.load(tmp_path / "missing")
    with pytest.raises(UserError, match=r"^data\.context\.folder: .* has no skills"):
        SkillLibrary.load(tmp_path)
    for name in ("1.md", "2.md"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(UserError, match=r"^data\.context\.folder: .* more than one skill named 'a'"):
        SkillLibrary.load(tmp_path)
    known = "alfworld, fiction, household, search_qa, synthetic_shop, webshop"
    with pytest.raises(UserError, match=rf"^data\.context\.library: 'nowhere'; must be one of {known}$"):
        SkillLibrary.builtin("nowhere")
    (tmp_path / "1.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"1\.md: cannot be read"):
        SkillLibrary.load(tmp_path)


@pytest.mark.parametrize(
    ("provider", "after_play"),
    [(NoContext, False), (SkillContext, False), (ReferenceSolution, False), (SiblingEpisode, True), (Hindsight, True)],
)
def test_only_contexts_of_finished_episodes_are_made_after_play(
    provider: type[ContextProvider], after_play: bool
) -> None:
    context, house = provider(), Household(size="tiny")
    context.bind(house, 2)
    assert context.after_play is after_play
    assert bool(context.provide(house.tasks("train")[0])) == (not after_play and provider is not NoContext)


def test_skill_context(tmp_path: Path) -> None:
    block = SkillContext().provide(task(KINDS[2]))
    assert block.startswith("Useful skills for this task:\n\ngeneral: ")
    assert "clean and place: Find the object" in block
    assert "microwave" not in block
    (tmp_path / "a.md").write_text(GOOD)
    own = SkillContext(folder=str(tmp_path))
    assert own.provide(task("x")) == "Useful skills for this task:\n\na: Do it."
    assert own.provide(task("y")) == ""
    assert NoContext().provide(task()) == ""


def test_skill_context_tells_its_retriever_how_it_went() -> None:
    context = SkillContext(library="alfworld", retriever=UCB())
    assert context.given(task()) == ()
    context.update(task(), (), True)  # nothing was given: nothing to learn
    assert sum(map(len, context.state_dict().values())) == 0
    context.provide(task())
    general, chosen = context.given(task())
    context.update(task(), (general, chosen), True)
    assert context.state_dict()[KINDS[0]] == {chosen: [1, 1]}, "general skills are always given"
    elsewhere = SkillContext(library="alfworld", retriever=UCB())  # another rank, which did not play the task
    elsewhere.update(task(), (general, chosen), True)
    assert elsewhere.state_dict() == context.state_dict()
    fresh = SkillContext(library="alfworld", retriever=UCB())
    fresh.load_state_dict(context.state_dict())
    assert fresh.state_dict() == context.state_dict()


def test_a_retriever_without_state() -> None:
    chooser: Retriever = ByKind()
    chooser.update(task(), [], True)
    chooser.load_state_dict(chooser.state_dict())
    assert chooser.state_dict() == {}


@pytest.mark.parametrize("provider", [NoContext, SiblingEpisode, Hindsight, ReferenceSolution, SkillContext])
@pytest.mark.parametrize("retriever", [ByKind, All, Random, Keyword, BM25, UCB])
def test_what_is_learnt_is_plain_data(provider: type[ContextProvider], retriever: type[Retriever]) -> None:
    """A checkpoint can be read with ``weights_only=True``: nothing in it but numbers, texts, lists and dictionaries."""
    if retriever is BM25:
        required("bm25s", "BM25 retrieval")

    def make() -> ContextProvider:
        return SkillContext(retriever=retriever()) if provider is SkillContext else provider()

    context = make()
    context.bind(Household(size="tiny"), 2)
    for goal in Household(size="tiny").tasks("train")[:3]:
        context.provide(goal)
        context.update(goal, context.given(goal), True)
    file = io.BytesIO()
    torch.save(context.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert state == context.state_dict() == json.loads(json.dumps(state))
    again = make()
    again.load_state_dict(state)
    assert again.state_dict() == state


def test_webshop_has_a_skill_for_each_kind_of_product() -> None:
    from sdar_pl.environments.webshop.goals import KINDS as PRODUCTS

    library = SkillLibrary.builtin("webshop")
    assert sorted(kind for skill in library for kind in skill.kinds) == sorted(PRODUCTS)
    assert 700 <= sum(len(skill.text.split()) for skill in library) <= 900
    assert [skill.name for skill in library.for_task(Task("t", "footwear", "boots"))] == ["general", "footwear"]
