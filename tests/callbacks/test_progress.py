"""Progress: lasting lines in a file, a live line on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import episode, fit_script, row, scripted

from sdar_pl.callbacks import Progress
from sdar_pl.callbacks.progress import head
from sdar_pl.types import Episode

EPISODES = [episode("a", True), episode("b", False), episode("c", False), episode("d", False)]
GATES = [([row(0, [0, 0], [1.0] * 2)], {"gate": [[0.4, 0.6]]})]
NO_TEACHER = [([row(0, [0], [1.0])], {})]


def panel_of(number: int, task: str, teacher: bool) -> Episode:
    """None succeeds at first, and one more at each validation."""
    return episode(task, int(task) < number)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE":
        monkeypatch.delenv(name, raising=False)


def test_a_file_gets_plain_lines(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    played = [(EPISODES, GATES), (EPISODES[:2], NO_TEACHER)]
    fit_script(tmp_path, make_policy(), [Progress()], played, panel_of=panel_of, enable_progress_bar=True)
    out = capsys.readouterr().out
    untrained, first, second = [
        re.sub(r"\d+\.\d s$", "_ s", line) for line in out.splitlines() if "iteration " in line
    ][-3:]
    assert untrained == "iteration 0/2 · untrained · validation   0.0 % · _ s"
    assert first == "iteration 1/2 · success  25.0 % · reward  2.500 · gate 0.500 · validation  33.3 % · _ s"
    assert second == "iteration 2/2 · success  50.0 % · reward  5.000 · gate     – · validation  66.7 % · _ s"
    assert re.search(r"^policy +.*qwen2.*: .* parameters, .* trained, LoRA rank 4$", out, re.M)
    assert re.search(r"^environment +Echo, validated on 3 tasks$", out, re.M)
    assert re.search(r"^iteration +2 groups × 2 episodes$", out, re.M)
    assert not {"\x1b", "\r"}.intersection(out)


def test_without_a_validation_none_is_named(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"limit_val_batches": 0, "enable_progress_bar": True}
    fit_script(tmp_path, make_policy(), [Progress()], [(EPISODES, GATES)], **options)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration 1/1")]
    assert "validation" not in line


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_evaluation_is_one_line(
    command: str, tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, module, data = scripted(
        tmp_path, make_policy(), [Progress()], panel_of=lambda number, task, teacher: episode(task, task != "0"),
        logger=False, enable_progress_bar=True,
    )  # fmt: skip
    getattr(trainer, command)(module, data, verbose=False)
    assert re.search(rf"^{command} · success  66.7 % · \d+\.\d s$", capsys.readouterr().out, re.M)


def test_a_terminal_counts_episodes_and_gets_its_cursor_back(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = Progress()
    options: dict[str, Any] = {"panel_of": panel_of, "enable_progress_bar": True}
    trainer, module, data = scripted(tmp_path, make_policy(), [bar], [(EPISODES, GATES)], **options)
    seen: list[tuple[str, str]] = []

    def listen(_: Episode) -> None:
        if listen not in data.listeners[-1:]:  # after the bar, which listens from setup on
            data.listeners.remove(listen)
            data.listeners.append(listen)
        seen.append((bar.phase, bar.note))

    data.listeners.append(listen)
    trainer.fit(module, data)
    assert ("rolling out", "1/4 · success of the ended 100%") in seen
    assert ("rolling out", "3/4 · success of the ended 33%") in seen
    assert ("validating 3 tasks", "2/3 · success of the ended 50%") in seen
    assert seen[-4] == ("scoring", ""), "after the last episode of the rollout, before the panel's three"
    out = capsys.readouterr().out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")


def test_an_exception_gives_the_cursor_back(
    tmp_path: Path, make_policy: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")

    def fails(number: int, task: str, teacher: bool) -> Episode:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fit_script(tmp_path, make_policy(), [Progress()], [(EPISODES, GATES)], panel_of=fails, enable_progress_bar=True)
    out = capsys.readouterr().out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")


def test_numbers_of_iterations_stand_below_each_other() -> None:
    class Trainer:
        max_epochs: int | None = 150

    trainer: Any = Trainer()
    assert head(trainer, 7) == "iteration   7/150"
    trainer.max_epochs = None
    assert head(trainer, 7) == "iteration    7"
