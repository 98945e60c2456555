"""Watchdog: what it warns of, that it warns once, and that it ends a run where it is asked to."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ENVIRONMENT, command, fit_here
from helpers.scripted import Hint, Step, episode, fit_script, row

from sdar_pl.callbacks import GateStats, TeacherPanel, Watchdog
from sdar_pl.callbacks.watchdog import CONDITIONS
from sdar_pl.errors import UserError
from sdar_pl.objectives import GRPO, SDAR, ConstantGate
from sdar_pl.reports.statistics import Interval
from sdar_pl.types import Episode

HEALTHY = {
    **{"policy/entropy": 0.24, "gate/mean": 0.49, "policy/clip_fraction": 0.1, "policy/approx_kl": 0.01},
    **{"loss/reference_kl": 0.04, "train/equal_groups": 0.5},
}


BETTER, BY_CHANCE, WORSE = Interval(0.1, 0.05, 0.15), Interval(-0.1, -0.25, 0.05), Interval(-0.2, -0.3, -0.1)


def judged(
    objective: Any = None, relative: bool = True, panel: Interval | None = BETTER, **figures: float
) -> dict[str, str]:
    return Watchdog().judge({**HEALTHY, **figures}, objective or SDAR(), relative, panel and (0.3, panel))


@pytest.mark.parametrize(
    ("condition", "figures", "words"),
    [
        ("entropy", {"policy/entropy": 0.004}, "policy/entropy is 0.004 nats, below 0.01"),
        ("gate", {"gate/mean": 0.013}, "gate/mean is 0.013: the gate is shut"),
        ("gate", {"gate/mean": 0.991}, "gate/mean is 0.991: the gate is open"),
        ("ratio", {"policy/clip_fraction": 0.62}, "policy/clip_fraction is 0.62"),
        ("ratio", {"policy/approx_kl": -0.7}, "policy/approx_kl -0.7 nats"),
        ("kl", {"loss/reference_kl": 3.5}, "loss/reference_kl is 3.5 nats, above 1"),
        ("groups", {"train/equal_groups": 1.0}, "the rewards of every group are equal"),
        ("teacher", {"panel": WORSE}, "the teacher succeeds on 30.0% of the panel, the student on 50.0%"),
    ],
)
def test_each_condition_by_itself(condition: str, figures: dict[str, Any], words: str) -> None:
    assert judged() == judged(panel=None) == judged(panel=BY_CHANCE) == {}
    ((name, line),) = judged(**figures).items()
    assert name == condition
    assert words in line
    assert any(remedy in line for remedy in ("lower", "look at", "choose")), "what to change"


def test_figures_that_mean_something_else_are_not_judged() -> None:
    constant, summed = SDAR(), SDAR()
    assert constant.distillation is not None
    constant.distillation.gate = ConstantGate(1.0)
    summed.aggregation = "seq-mean-token-sum"
    assert judged(constant, **{"gate/mean": 1.0}) == {}
    assert judged(summed, **{"loss/reference_kl": 9.0}) == {}
    assert judged(GRPO(), panel=WORSE, **{"gate/mean": 0.0}) == {}
    assert judged(relative=False, **{"train/equal_groups": 1.0}) == {}
    assert Watchdog().judge({}, SDAR()) == {}


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"Watchdog\.stop_on: 'entropi'; must be one of entropy, gate, "):
        Watchdog(stop_on=["entropi"])
    with pytest.raises(UserError, match=r"trainer\.callbacks\.Watchdog\.max_drop: 0; must be > 0 and ≤ 1"):
        Watchdog(max_drop=0)


# ---------------------------------------------------------------------- in real runs


@pytest.fixture
def watched(tmp_path: Path, make_policy: Callable[..., Any]) -> Callable[..., list[str]]:
    """``watched(Watchdog(), wins, gates)``: one iteration for each, with that many of four episodes won and that gate →
    the warnings."""

    def run(watchdog: Watchdog, wins: str, gates: list[float], **options: Any) -> list[str]:
        def played(won: int, gate: float) -> tuple[list[Episode], list[Step]]:
            episodes = [episode("a", k < won, index=k) for k in range(4)]
            return episodes, [([row(0, [0], [1.0])], {"gate": [[gate]]})]

        rollouts = [played(int(won), gate) for won, gate in zip(wins, gates, strict=True)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit_script(
                *(tmp_path, make_policy(), [watchdog, GateStats(), *options.pop("more", [])], rollouts),
                **{"objective": SDAR(), "context": Hint(), "num_sanity_val_steps": 0, **options},
            )
        said = [str(warning.message) for warning in caught]
        return [line.removeprefix("watchdog, iteration ") for line in said if line.startswith("watchdog")]

    return run


def test_a_condition_is_named_once_until_it_clears(watched: Callable[..., list[str]]) -> None:
    said = watched(Watchdog(), "222222", [0.5, 0.01, 0.01, 0.5, 0.01, 0.99])
    assert [line[:19] for line in said] == ["2: gate/mean is 0.0", "5: gate/mean is 0.0"]


def test_success_is_compared_with_the_start_over_several_iterations(watched: Callable[..., list[str]]) -> None:
    (line,) = watched(Watchdog(), "3331113", [0.5] * 7)
    assert line.startswith("5: train/success is 41.7%, 75.0% at the start (means of 3 iterations)")


def test_only_groups_without_variance(watched: Callable[..., list[str]]) -> None:
    (line,) = watched(Watchdog(max_drop=1.0), "244", [0.5] * 3)
    assert line.startswith("2: train/equal_groups is 1")


def test_the_run_ends_where_it_is_asked_to(watched: Callable[..., list[str]], tmp_path: Path) -> None:
    said = watched(Watchdog(stop_on=["gate"]), "2222", [0.5, 0.01, 0.01, 0.01])
    assert len(said) == 1
    assert said[0].endswith("; the run ends (stop_on)")
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3, "two iterations of four, and the names"


def test_a_worse_teacher_is_named_once_over_several_panels(watched: Callable[..., list[str]]) -> None:
    def panel_of(number: int, task: str, teacher: bool) -> Episode:
        return episode(task, int(task) < (2 if teacher else 12))

    (line,) = watched(Watchdog(), "2222", [0.5] * 4, more=[TeacherPanel()], panel_tasks=20, panel_of=panel_of)
    assert line.startswith("1: the teacher succeeds on 10.0% of the panel, the student on 60.0%")


def test_a_resumed_watchdog_remembers() -> None:
    first, second = Watchdog(), Watchdog()
    first.holding, first.success = ["gate"], [0.5, 0.25]
    second.load_state_dict(first.state_dict())
    assert (second.holding, second.success) == (["gate"], [0.5, 0.25])


@pytest.mark.slow
def test_every_run_has_one_and_options_reach_it(tmp_path: Path) -> None:
    options = ["--trainer.callbacks+=sdar_pl.callbacks.Watchdog", "--trainer.callbacks.stop_on", str(list(CONDITIONS))]
    with pytest.warns(UserWarning, match="train/equal_groups is 1.*the run ends"):
        run = fit_here(tmp_path, *options, "--data.play.max_turns", "1", "--trainer.limit_val_batches", "0")
    assert [path.name for path in (run / "checkpoints").glob("iteration*")] == ["iteration-0001.ckpt"]


@pytest.mark.slow
def test_a_warning_is_printed_as_one(tmp_path: Path) -> None:
    """Importing Lightning changes how warnings are printed that come from its own files, as a callback's do."""
    options = ["--data.play.max_turns", "1", "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]
    run = command(tmp_path, "run", *options)
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert [line.partition(": the")[0] for line in done.stderr.splitlines() if "watchdog" in line] == [
        "warning: watchdog, iteration 1: train/equal_groups is 1"
    ]
