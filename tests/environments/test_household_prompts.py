"""The wording of household games, which Household and AlfWorld share."""

from __future__ import annotations

from sdar_pl.environments.action_tags import parse_action
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.prompts import HEADER
from sdar_pl.types import Observation, Task

TASK = Task("t", "pick_and_place_simple", "put some mug in shelf")
FIRST = Observation(f"{HEADER}\n\nYou are in a room.\n\nYour task is to: {TASK.text}.", ("go to shelf 1", "help"))
FULL = Household(think=True, show_admissible=True)
HISTORY = [(f"act {k}", Observation(f"Seen {k}.", (f"command {k}", "help"))) for k in range(1, 5)]


def test_window() -> None:
    text = FULL.window(TASK, FIRST, HISTORY, steps=2)
    assert TASK.text in text
    assert "Steps taken so far: 4" in text
    assert [f"act {k}" in text for k in range(1, 5)] == [False, False, True, True]
    assert "[Step 3] Observation: Seen 2.\n[Step 3] Action: act 3" in text
    assert "Now step 5. Observation: Seen 4." in text
    assert "command 4" in text
    assert "command 3" not in text
    assert "help" not in text
    assert "<think></think>" in text
    assert "<action></action>" in text
    start = FULL.window(TASK, FIRST, [], steps=2)
    assert "go to shelf 1" in start
    assert "Steps taken" not in start
    assert HEADER not in start
    assert "act 4" not in FULL.window(TASK, FIRST, HISTORY, steps=0)


def test_conversation() -> None:
    plain = Household(think=False, show_admissible=False)
    opening = plain.opening(TASK, FIRST)
    instruction, rest = opening.split("\n\n", 1)
    assert len(instruction) < 50
    assert "<action>" in instruction
    assert rest == f"You are in a room.\n\nYour task is to: {TASK.text}."
    assert plain.reply(HISTORY[0][1]) == "Seen 1."
    assert plain.parse("<action>look</action>") == ("look", True)
    assert "<think>" in FULL.opening(TASK, FIRST)
    assert "go to shelf 1" in FULL.opening(TASK, FIRST)
    assert FULL.reply(HISTORY[0][1]) == "Seen 1.\n\nAdmissible commands:\ncommand 1"
    assert FULL.parse("<action>look</action>") == ("look", False)


def test_parse_without_thinking() -> None:
    assert parse_action(" <action> Look </action>", think=False) == ("look", True)
    assert parse_action("look", think=False) == ("look", False)
