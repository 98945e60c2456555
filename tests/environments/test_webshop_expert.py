"""The scripted players of the synthetic catalogue, and 128 visits at a time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from sdar_pl.environments.webshop import WebShop
from sdar_pl.environments.webshop.expert import Aim, Expert, Mistakes, Novice, Result, results
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task


@cache
def shop() -> WebShop:
    """The catalogue of configs/webshop/tiny.yaml."""
    return WebShop(think=False, show_admissible=False, page_size=3, hits=9)


def visit(world: WebShop, task: Task, player: Expert) -> tuple[Observation, list[str]]:
    """At most 8 steps → the last observation and all actions."""
    session, actions = world.session(task), list[str]()
    seen = session.reset()
    while not seen.done and len(actions) < 8:
        actions.append(player.act(seen))
        seen = session.step(actions[-1])
    return seen, actions


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("i want a red coat", Aim("red coat")),
        ("i want a red coat, and price lower than 50.00 dollars", Aim("red coat", (), 50.0)),
        (
            "i want a tea tree soap with scent: rose, and size: 2 ounce, and price lower than 20.00 dollars",
            Aim("tea tree soap", (("scent", "rose"), ("size", "2 ounce")), 20.0),
        ),
    ],
)
def test_an_instruction_in_parts(text: str, aim: Aim) -> None:
    assert Aim.parse(text) == aim


def test_other_instructions_are_refused() -> None:
    with pytest.raises(UserError, match="is not one of the synthetic catalogue"):
        Expert("find me a coat")
    with pytest.raises(UserError, match="not of the form 'color: red'"):
        Expert("i want a coat with red")


def test_a_page_of_results() -> None:
    page = (
        "Instruction: [SEP] i want a x [SEP] Back to Search [SEP] Page 1 (Total results: 2) [SEP] "
        "B1 [SEP] Zora Slim Fit Coat [SEP] $5.0 to $13.0 [SEP] B2 [SEP] Zora Coat [SEP] $9.5"
    )
    found = results(page)
    assert found == [Result("B1", "Zora Slim Fit Coat", 13.0), Result("B2", "Zora Coat", 9.5)]
    assert [one.fits(Aim("slim fit coat", (), 13.0)) for one in found] == [True, False]
    assert not found[0].fits(Aim("slim fit coat", (), 10.0))
    assert results("Back to Search [SEP] Price: $5.0") == []


def test_the_expert_buys_what_is_asked_for_and_the_novice_errs() -> None:
    tasks = list(shop().tasks("train"))[:400]
    expert = [visit(shop(), task, Expert(task.text))[0].success for task in tasks]
    novice = [visit(shop(), task, Novice(task.text, random.Random(task.id)))[0].success for task in tasks]
    assert sum(expert) >= 0.9 * len(tasks)
    assert 0.25 * len(tasks) < sum(novice) < 0.5 * len(tasks)


def test_without_mistakes_a_novice_is_an_expert() -> None:
    none = Mistakes(vague=0, first=0, skip_options=0, skip_last=0, first_value=0)
    for task in shop().tasks("train")[:50]:
        wise, naive = (visit(shop(), task, player)[1] for player in (Expert(task.text), Novice(task.text, None, none)))
        assert wise == naive


def test_each_mistake() -> None:
    task = next(task for task in shop().tasks("train") if task.kind == "apparel")
    aim = Aim.parse(task.text)
    none = {"vague": 0.0, "first": 0.0, "skip_options": 0.0, "skip_last": 0.0, "first_value": 0.0}

    def actions(**mistakes: float) -> list[str]:
        return visit(shop(), task, Novice(task.text, None, Mistakes(**{**none, **mistakes})))[1]

    right = actions()
    assert right[0] == f"search[ {aim.product} ]"
    assert right[-3:] == [*(f"click[ {value} ]" for _, value in aim.options), "click[ Buy Now ]"]
    assert actions(vague=1.0)[0] == f"search[ {aim.product.split()[-1]} ]"
    assert actions(skip_options=1.0) == [*right[:-3], right[-1]]
    assert actions(skip_last=1.0) == [*right[:-2], right[-1]]
    assert len(actions(first_value=1.0)) == len(right)


def test_128_visits_share_one_store() -> None:
    """On 16 threads, each visit ends as it does alone."""
    tasks = list(shop().tasks("test"))[:128]

    def score(task: Task) -> float | None:
        return visit(shop(), task, Expert(task.text))[0].score

    alone = [score(task) for task in tasks]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(score, tasks)) == alone
