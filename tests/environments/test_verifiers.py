"""Verifiers with the real package, which has requirements of its own: skipped where it is not installed."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS, ROOT
from helpers.pages import named_blocks
from helpers.runs import TINY, metrics, run_here

from sdar_pl.environments.contract import Subject, check
from sdar_pl.environments.verifiers import Verifiers
from sdar_pl.errors import UserError

FEW: dict[str, Any] = {"validation_tasks": 4, "test_tasks": 4}


@pytest.fixture
def needs_verifiers() -> None:
    pytest.importorskip("verifiers", reason="pip install 'sdar_pl[verifiers]'")


def sums(**options: Any) -> Verifiers:
    return Verifiers("helpers.verifiers_tasksets.Sums", answer="answer", **{**FEW, **options})


@pytest.mark.slow
@pytest.mark.usefixtures("needs_verifiers")
def test_it_keeps_the_contract() -> None:
    report = check(Subject(sums, ("train", "validation", "test"), episodes=4))
    assert not report.violations
    assert set(report.unchecked) == {"admissible"}


@pytest.mark.slow
@pytest.mark.usefixtures("needs_verifiers")
def test_the_task_s_own_rewards_are_summed() -> None:
    world = sums(arguments={"largest": 5})
    splits = [[task.text for task in world.tasks(split)] for split in ("train", "validation", "test")]
    assert [len(texts) for texts in splits] == [17, 4, 4]
    assert len(set().union(*splits)) == 25, "no task in two splits"
    assert [task.text for task in sums(arguments={"largest": 5}).tasks("train")] == splits[0]
    assert [task.text for task in sums(arguments={"largest": 5}, seed=1).tasks("train")] != splits[0]
    task = world.tasks("train")[0]
    (answer,) = world.expert_plan(task)
    assert task.text.startswith("Add.\n\n")
    assert eval(task.text.split("\n\n")[1].rstrip(" =?")) == int(answer)
    for reply, reward, success in ((answer, 1.0, True), ("no", 0.25, False), (f"perhaps {answer}", 0.0, False)):
        session = world.session(task)
        assert session.reset().text == task.text
        seen = session.step(reply)
        assert (seen.reward, seen.done, seen.success) == (reward, True, success)
    assert world.parse("<think>2</think> 3 ") == ("3", True)

    async def in_a_notebook() -> float:
        return world.session(task).step(answer).reward

    assert asyncio.run(in_a_notebook()) == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("needs_verifiers")
def test_the_page_s_taskset_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(zip(TINY[::2], TINY[1::2], strict=True))
    settings |= {"--trainer.max_epochs": "1", "--data.environment.init_args.validation_tasks": "4"}
    settings |= {"--trainer.default_root_dir": str(tmp_path), "--data.environment.init_args.test_tasks": "4"}
    blocks = named_blocks(ROOT / "docs" / "other_environments.md")
    for name in ("my_tasks.py", "sums.yaml"):
        (tmp_path / name).write_text(blocks[name])
    monkeypatch.syspath_prepend(tmp_path)
    configs = ["--config", str(CONFIGS / "other_environments" / "reasoning_gym.yaml"), "--config", "sums.yaml"]
    monkeypatch.chdir(tmp_path)
    row = metrics(run_here("fit", *configs, *(word for pair in settings.items() for word in pair)))[-1]
    assert math.isfinite(row["loss/total"])
    assert math.isfinite(row["gap/mean"])
    assert "val/success/Sums" in row


@pytest.mark.slow
@pytest.mark.usefixtures("needs_verifiers")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Nothing", {}, "taskset: 'helpers.verifiers_tasksets.Nothing' cannot be imported"),
        ("SumTask", {}, "taskset: 'helpers.verifiers_tasksets.SumTask' is no taskset"),
        ("Boxed", {}, "taskset: Boxed needs a runtime of verifiers; choose"),
        ("Plain", {}, "taskset: Plain needs rewards that its environment records; choose"),
        ("Sums", {"arguments": {"largest": 2}}, "taskset: Sums has 4 tasks; lower"),
        ("Sums", {"arguments": {"largest": "many"}}, "taskset: Sums cannot be loaded"),
        ("Sums", {"answer": "reply"}, "answer: the tasks of Sums have no field 'reply'"),
    ],
)
def test_tasksets_that_cannot_be_played(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^data.environment.{message}") as caught:
        Verifiers(f"helpers.verifiers_tasksets.{name}", **FEW, **options)
    assert "\n" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(UserError, match=r"Verifiers needs the package 'verifiers.v1'; pip install 'sdar_pl"):
        Verifiers("my_tasks.Mine")
