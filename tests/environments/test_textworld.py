"""The official engine beside ours, observation by observation, and the death of one of its processes."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from helpers.alfworld import command
from helpers.evidence import required
from helpers.runs import metrics, run_here

from sdar_pl.environments.alfworld import AlfWorld
from sdar_pl.environments.alfworld.textworld_worker import TextWorldSession, WorkerError
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.types import Observation

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _packages() -> None:
    for package in ("textworld", "alfworld"):
        required(package, "the official engine; pip install 'sdar_pl[alfworld]'")


def test_textworld_engine_agrees(root: Path, world: AlfWorld) -> None:
    official = AlfWorld(str(root), engine="textworld")
    task = official.tasks("valid_unseen")[0]
    session, twin = official.session(task), world.session(task)
    assert isinstance(session, TextWorldSession)
    assert isinstance(twin, HouseholdSession)
    assert session.reset() == twin.reset()
    for action in ("look", "nonsense", *world.expert_plan(task), "look"):
        assert session.step(action) == twin.step(action)
    session.close()
    session = official.session(task)
    session.reset()
    assert session._worker is not None
    session._worker.kill()
    with pytest.raises(WorkerError):
        session.step("look")
    session.close()
    session = official.session(task)
    assert session.reset().admissible
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_random_games_side_by_side(root: Path, world: AlfWorld, split: str) -> None:
    """A game of each kind and split that the recorded transcripts need not hold, played at random, with slips."""
    official = AlfWorld(str(root), engine="textworld")
    rng = random.Random(f"side by side in {split}")
    for kind in world.kinds:
        for task in rng.sample([task for task in official.tasks(split) if task.kind == kind], 1):
            session, twin = official.session(task), world.session(task)
            observation = session.reset()
            assert twin.reset() == observation, task.id
            slips = ["", "take the lot", "go to nowhere 1", "open", "examine", "GO TO shelf 1", "help", "inventory"]
            for _ in range(30):
                action = rng.choice(slips if rng.random() < 0.1 else observation.admissible)
                observation = session.step(action)
                assert twin.step(action) == observation, (task.id, action)
                if observation.done:
                    break
            session.close()


@pytest.mark.slow
def test_a_killed_worker_does_not_stop_a_run(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of a worker in mid-episode: that episode is played again, on another worker."""
    killed: list[tuple[int, str]] = []
    resets: Counter[str] = Counter()
    step, reset = TextWorldSession.step, TextWorldSession.reset

    def deadly(self: TextWorldSession, action: str) -> Observation:
        self.steps_taken = getattr(self, "steps_taken", 0) + 1  # type: ignore[attr-defined]
        if self.steps_taken == 2 and not killed:  # type: ignore[attr-defined]
            assert self._worker is not None
            process = self._worker._process
            killed.append((process.pid, self.path.parent.name))
            os.kill(process.pid, signal.SIGKILL)
        return step(self, action)

    def counted(self: TextWorldSession) -> Observation:
        resets[self.path.parent.name] += 1
        return reset(self)

    monkeypatch.setattr(TextWorldSession, "step", deadly)
    monkeypatch.setattr(TextWorldSession, "reset", counted)
    options = {
        "model.policy.model": str(models["qwen2"]),
        "data.environment.init_args.engine": "textworld",
        "data.prompter.init_args.max_prompt_tokens": "8192",
        "data.prompter.init_args.max_teacher_tokens": "16384",
        "data.play.max_turns": "3",
        "data.play.workers": "1",  # one after the other: the kill comes first
        "data.sampling.max_new_tokens": "4",
        "data.evaluation.max_new_tokens": "4",
        "data.tasks_per_iteration": "2",
        "data.group_size": "2",
        "data.panel_tasks": "1",
        "trainer.max_epochs": "1",
        "trainer.num_sanity_val_steps": "0",
    }
    folder = run_here(*command("fit", tmp_path), *(word for key in options for word in (f"--{key}", options[key])))
    ((pid, game),) = killed
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert resets[game] == 3, "two episodes of the group, one of them twice"
    (row,) = metrics(folder)
    assert row["rollout/failed"] == 0
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").open()]
    assert [len(episode["turns"]) for episode in episodes if episode["split"] == "train"] == [3] * 4
