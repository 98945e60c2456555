"""Many episodes with faults: every figure is that of the episodes that count, and nothing is left behind.

Each task has an id of its own, so that Faulty says beforehand which sessions fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.experts import CountedHousehold, Script, expected, numbered_tasks
from helpers.plays import run
from helpers.runs import ENVIRONMENT, command, fit_here, metrics
from helpers.worlds import eventually

from sdar_pl.batch import rows_of
from sdar_pl.environments.faults import Faulty
from sdar_pl.environments.household import Household
from sdar_pl.objectives.advantages import GroupAdvantage
from sdar_pl.rollout import PlayRules
from sdar_pl.sampling import threads
from sdar_pl.sampling.dynamic_sampling import Rollout, roll_out
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.scoring import set_advantages
from sdar_pl.types import Episode

GROUP, AT_ONCE = 5, 500
#: a time limit that no call of a busy machine exceeds: a further failure would not be in the script
RULES = PlayRules(max_turns=4, invalid_penalty=0.0, step_timeout=8.0)
SLOW_RATES = {"exceptions": 0.025, "nonsense": 0.02, "hangs": 0.00004, "slow": 0.00496}
GAMES = {"size": "tiny", "kinds": ["pick_and_place_simple"]}  # go, take, go, put


def held() -> tuple[int, int, int]:
    """Threads, hung ones among them, and descriptors."""
    return threading.active_count(), threads.hung(), len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("ignore:task .* failed 3 times")
@pytest.mark.parametrize(
    ("count", "rates"),
    [
        pytest.param(200, {"exceptions": 0.05, "nonsense": 0.05, "slow": 0.01}, id="200"),
        pytest.param(10_000, SLOW_RATES, id="10000", marks=pytest.mark.slow),
    ],
)
def test_statistics_and_leaks(count: int, rates: dict[str, float]) -> None:
    home = CountedHousehold(**GAMES)
    world = Faulty(home, **rates, delay=0.001, seed=3)  # type: ignore[arg-type]
    tasks = numbered_tasks(home, count)
    plans = [Household(**GAMES).expert_plan(task) for task in tasks[:100]]  # type: ignore[arg-type]
    # Of every group the first three try to win. Who has not won after max_turns has lost.
    script = {n: plans[n % 100] if n % GROUP < 3 else () for n in range(count)}
    wins = [0 < len(script[n]) <= RULES.max_turns for n in range(count)]
    calls = [1 + (len(script[n]) if wins[n] else RULES.max_turns) for n in range(count)]
    fates = [expected(world, task, n, RULES.retries) for task, n in zip(tasks, calls, strict=True)]
    counts = [n for n, fate in enumerate(fates) if not fate.failed]
    before = held()
    engine = Script(script)

    def play_groups(round_: int, groups: Sequence[int]) -> list[Episode]:
        numbers = [group * GROUP + index for group in groups for index in range(GROUP)]
        slots = [EpisodeSlot(tasks[n], n // GROUP, n % GROUP, n, (0, n)) for n in numbers]
        return run(world, RULES, engine, slots=slots)  # type: ignore[arg-type]

    rollout = Rollout()
    for first in range(0, count, AT_ONCE):
        part = roll_out(play_groups, range(first // GROUP, min(first + AT_ONCE, count) // GROUP))
        rollout.episodes += part.episodes
        rollout.failed += part.failed

    # Failed are those whose retries are exhausted, and no others.
    assert 0.002 * count < len(rollout.failed) == count - len(counts) < 0.3 * count
    assert [int(episode.task.id) for episode in rollout.failed] == [n for n, fate in enumerate(fates) if fate.failed]
    assert [int(episode.task.id) for episode in rollout.episodes] == counts
    assert world.injected == sum((fate.injected for fate in fates), Counter[str]())
    # The statistics are those of the others, as if the faults had never been.
    assert [episode.success for episode in rollout.episodes] == [wins[n] for n in counts]
    assert [episode.reward for episode in rollout.episodes] == [10.0 * wins[n] for n in counts]
    assert [1 + len(episode.turns) for episode in rollout.episodes] == [calls[n] for n in counts]
    # The loss has a row of each, with an advantage among those of its group.
    rows = [row for i, episode in enumerate(rollout.episodes) for row in rows_of(episode, i, "conversation")]
    set_advantages(rows, rollout.episodes, GroupAdvantage())
    assert [int(rollout.episodes[row.episode].task.id) for row in rows] == counts
    for row in rows:
        group = np.array([10.0 * wins[n] for n in counts if n // GROUP == row.group])
        own = 10.0 * wins[int(rollout.episodes[row.episode].task.id)]
        deviation = group.std(ddof=1) if len(group) > 1 else 0.0
        assert row.advantages[0] == pytest.approx((own - group.mean()) / (deviation + 1e-6) if len(group) > 1 else own)
    # Nothing is left: every session is closed once, threads and descriptors are as many as before.
    eventually(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    assert home.opened == home.closed == {task.id: fate.attempts for task, fate in zip(tasks, fates, strict=True)}
    assert not engine.turns, "every session is forgotten by the engine"


def test_a_run_by_configuration(tmp_path: Path) -> None:
    """Faulty around the quickstart's household: metrics.csv counts what episodes.jsonl names as failed."""
    inner = '{"class_path": "sdar_pl.environments.household.Household", "init_args": {"size": "tiny"}}'
    options = {
        "data.environment": "sdar_pl.environments.faults.Faulty",
        "data.environment.environment": inner,
        **{"data.environment.exceptions": "0.1", "data.environment.nonsense": "0.2"},
        **{"data.play.retries": "0", "data.play.max_failed": "1"},
        **{"trainer.limit_val_batches": "0", "trainer.max_epochs": "1"},
    }
    with pytest.warns(UserWarning, match="failed 1 times and is left out"):
        run = fit_here(tmp_path, *(word for key, value in options.items() for word in (f"--{key}", value)))
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    for row in metrics(run):
        played = [line for line in lines if line["iteration"] == row["step"]]
        good = [line for line in played if not line["failed"]]
        assert 0 < row["rollout/failed"] == len(played) - len(good) < len(played) == 8
        assert row["train/success"] == np.mean([line["success"] for line in good])
        assert row["train/reward"] == pytest.approx(np.mean([line["reward"] for line in good]))


@pytest.mark.slow
def test_a_run_whose_sessions_hang_for_ever_ends(tmp_path: Path) -> None:
    """In one line, and its process exits although more than 64 threads still wait."""
    options = {
        **{"data.environment": "helpers.experts.Stuck", "trainer.num_sanity_val_steps": "0"},
        **{"data.tasks_per_iteration": "24", "data.group_size": "4", "data.play.step_timeout": "0.3"},
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    done = subprocess.run(
        command(tmp_path, "run", *words), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: data.environment: sessions of Stuck hang: ")
    assert "data.play.step_timeout" in error
    assert "Traceback" not in done.stderr
