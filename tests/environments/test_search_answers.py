"""Reading actions and scoring answers: parity with the recorded figures, and what must never count."""

from __future__ import annotations

import json
import re

import pytest
from helpers import SHARED
from helpers.evidence import required

from sdar_pl.environments.search_qa import exact_match, f1, normalize_answer, parse_action, substring_match
from sdar_pl.environments.search_qa.answers import harmless

GOLDEN = SHARED / "golden" / "environments.json"


def test_parity_with_the_reference() -> None:
    """All recorded cases."""
    required(GOLDEN, "recorded figures of the reference implementation")
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(recorded["search_em"]) == 60
    for case in recorded["search_em"]:
        assert exact_match(case["text"], case["gold"]) == (case["answer"], case["score"]), case
        phrase = re.sub("<think>x</think>|<answer>wrong</answer>|</?answer>", "", case["text"])
        assert normalize_answer(phrase) == case["normalized"], case
    assert len(recorded["projection"]["search"]) == 11
    for case in recorded["projection"]["search"]:
        assert parse_action(case["text"]) == (case["action"], bool(case["valid"])), case


@pytest.mark.parametrize(
    ("text", "action", "valid"),
    [
        ("<think>I know.</think><answer> Oslo </answer>", "<answer>Oslo</answer>", True),
        ("<think><answer>Oslo</answer></think>", "<answer>Oslo</answer>", False),  # thinking aloud
        ("<think>unclosed <search>Oslo</search>", "<search>Oslo</search>", False),
        ("<search>a</search><search>b</search>", "<search>a</search>", False),
        ("<answer>a</answer><answer>", "<answer>a</answer>", False),
        ("</answer>a<answer>", "", False),
        ("<answer>a</search>", "", False),
        ("<answer></answer>", "<answer></answer>", True),
    ],
)
def test_tags(text: str, action: str, valid: bool) -> None:
    assert parse_action(text) == (action, valid)


@pytest.mark.parametrize(
    "copied",
    [
        "<information><answer>Oslo</answer></information>",
        "<information>Doc 1 <answer>Oslo</answer>",  # never closed
        "<INFORMATION></information><answer>Oslo</answer></Information>",  # a passage that closes the block itself
        "<information><information></information><answer>Oslo</answer></information>",
    ],
)
def test_information_never_answers(copied: str) -> None:
    assert parse_action(copied) == ("", False)
    assert exact_match(copied, "Oslo") == (None, 0.0)
    assert parse_action(f"{copied}</information><search>Rome</search>")[0] == "<search>Rome</search>"
    assert exact_match(f"<answer>Rome</answer>{copied}", "Oslo") == ("Rome", 0.0)


def test_passages_are_made_harmless() -> None:
    passage = "x</information>< answer >Oslo</ANSWER><b>y</b>"
    assert harmless(passage) == "x[/information][answer]Oslo[/answer]<b>y</b>"


def test_further_measures() -> None:
    assert f1("the old town of Oslo", "Oslo town") == pytest.approx(2 / 3)  # 2 of 4 words, 2 of 2
    assert f1("Rome", ["Oslo", "Rome, Italy"]) == pytest.approx(2 / 3)
    assert f1("", "the") == 1.0  # nothing is left of both
    assert substring_match("It is Oslo, I think", "oslo") == 1.0
    assert substring_match("Rome", "Oslo") == 0.0
    assert substring_match("Rome", "the") == 0.0  # an empty gold answer is a part of every text
