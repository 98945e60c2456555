"""WebShop's site, splits, prompts and expert on the embedded synthetic catalogue."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest
from helpers import ROOT

from sdar_pl.environments.webshop import WebShop
from sdar_pl.environments.webshop.goals import KINDS
from sdar_pl.environments.webshop.site import WebShopSession
from sdar_pl.errors import UserError

SPLITS = ("train", "validation", "test")


@cache
def shop() -> WebShop:
    return WebShop()


def session(number: int = 0) -> WebShopSession:
    return shop().session(shop().tasks("test")[number])


def test_splits_have_the_official_sizes_and_share_nothing() -> None:
    numbers = {split: set(shop().tasks(split).numbers) for split in SPLITS}
    assert [len(numbers[split]) for split in ("test", "validation")] == [500, 1000]
    assert (
        len(set.union(*numbers.values()))
        == sum(map(len, numbers.values()))
        == shop().store.number_of_goals("synthetic")
    )


def test_splits_are_the_same_in_another_process_and_on_another_rank() -> None:
    program = "from sdar_pl.environments.webshop import WebShop; print(*WebShop().tasks('test').numbers)"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "PYTHONHASHSEED": "7", "RANK": "3"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == list(shop().tasks("test").numbers)


def test_the_leaking_shuffle_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official behaviour: test goals of one worker are training goals of another."""
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.warns(UserWarning, match="test goals of one rank are trained on"):
            found.append(WebShop(leaking_shuffle=True))
    assert set(found[0].tasks("test").numbers) & set(found[1].tasks("train").numbers)


def test_the_small_split_validates_on_the_test_goals() -> None:
    small = WebShop(splits="small")
    assert small.tasks("test").numbers == shop().tasks("test").numbers
    assert len(small.tasks("train")) == small.store.number_of_goals("synthetic") - 500
    with pytest.raises(UserError, match=r"no split 'validation'; use test, train"):
        small.tasks("validation")


def test_the_expert_reaches_score_1() -> None:
    tasks = shop().tasks("test")[:100]
    assert sum(bool(shop().expert_plan(task)) for task in tasks) >= 95  # a plan is empty unless it reaches score 1
    assert {task.kind for task in tasks} == set(KINDS)


def test_a_visit() -> None:
    visit = session()
    goal = visit.goal["instruction_text"]
    search, opened, *options, buy = shop().expert_plan(shop().tasks("test")[0])
    assert visit.reset().text == f"WebShop [SEP] Instruction: [SEP] {goal} [SEP] Search"
    results = visit.step(search.upper())
    total = len(visit.results)
    pages = -(-total // 10)
    assert pages >= 2
    head = f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] Page 1 (Total results: {total}) [SEP] Next > [SEP] B"
    assert results.text.startswith(head)
    assert len(results.admissible) == 12
    last = results
    for page in range(2, pages + 1):
        last = visit.step("click[Next >]")
        assert f"Page {page} (Total results: {total}) [SEP] < Prev [SEP] " in last.text
    assert "click[next >]" not in last.admissible
    assert visit.step("click[next >]") == last  # nothing happens
    for _ in range(pages - 1):
        last = visit.step("click[< prev]")
    assert last == results
    item = visit.step(opened)
    assert item.text.endswith("[SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now")
    for detail in ("Description", "Features", "Reviews"):
        assert visit.step(f"click[{detail}]").text.startswith(
            f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] < Prev"
        )
        assert visit.step("click[< Prev]") == item
    for option in options:
        assert visit.step(option) == item
    end = visit.step(buy)
    assert (end.reward, end.done, end.success, end.score) == (10.0, True, True, 1.0)
    assert end.text.endswith("Your score (min 0.0, max 1.0) [SEP] 1.0")


@pytest.mark.parametrize(
    "action",
    ["", "search", "search[]", "search[   ]", "click[]", "click[search]", "click[buy now]", "buy now", "x" * 10_000],
)
def test_what_the_page_does_not_offer_does_nothing(action: str) -> None:
    visit = session()
    assert visit.step(action) == visit.reset()


def test_actions_are_read_as_the_official_site_reads_them() -> None:
    """What follows the bracket is ignored; a second bracket makes it another, unknown action."""
    found = session().step("search[red shirt]")
    assert session().step(" SEARCH[red shirt] and then buy") == found
    assert session().step("search[red shirt") == session().step("search[red [shirt]]") == session().reset()


def test_a_search_of_10_000_characters_and_one_without_results() -> None:
    visit = session()
    assert "Page 1" in visit.step(f"search[{'red shirt ' * 1000}]").text
    seen = visit.step("search[qqqq]")
    assert seen.text.endswith("Back to Search [SEP] Page 1 (Total results: 0)")
    assert seen.admissible == ("click[back to search]",)


def test_without_the_options_the_score_is_partial() -> None:
    plan = shop().expert_plan(shop().tasks("test")[0])
    for paid, reward in (("success", 0.0), ("score", None)):
        visit = WebShop(reward=paid).session(shop().tasks("test")[0])  # type: ignore[arg-type]
        seen = visit.reset()
        for action in (*plan[:2], plan[-1]):
            seen = visit.step(action)
        assert not seen.success
        assert seen.score is not None
        assert 0 < seen.score < 1
        assert seen.reward == pytest.approx(10 * seen.score if reward is None else reward)
    assert visit.parts["r_option"] == 0


def test_search_finds_near_duplicates_by_what_they_have() -> None:
    """Products that share a noun differ in their attributes: the noun alone does not find the right one."""
    first = 0
    for task in shop().tasks("test")[:60]:
        goal = shop().goals.goal(task.data)
        first += shop().store.search(goal["query"], 10)[:1] == (goal["asin"],)
    assert first <= 20


def test_a_windowed_prompt_has_the_goal_once_and_the_last_steps() -> None:
    task, visit = shop().tasks("test")[0], session()
    first = visit.reset()
    history = [(action, visit.step(action)) for action in shop().expert_plan(task)[:3]]
    text = shop().window(task, first, history, 2)
    assert text.count(task.text) == 1
    assert text.count("Action: click[") == 2
    assert "[Step 3] Action: " in text
    assert "Admissible actions:\nclick[back to search]" in text
    assert "<think></think>" in text
