"""Runs that are killed, stopped or lose a rank, at any moment: nothing is lost, and the resumed run is the same."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.runs import ENVIRONMENT, ROOT, command, episodes, fit, metrics, same, struck, weights

pytestmark = pytest.mark.slow
DDP = ("--trainer.strategy", "ddp", "--trainer.devices", "2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("alone"), "run")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("pair"), "run", *DDP)


@pytest.mark.parametrize("when", ["rollout", "scoring", "update", "validation", "writing"])
def test_killed_at_any_stage(when: str, alone: Path, tmp_path: Path) -> None:
    assert struck(tmp_path, when)[0] == -signal.SIGKILL
    finished = when in ("update", "validation", "writing")
    resumed = subprocess.run(
        command(tmp_path, "run", "--ckpt_path", "last"), env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stderr
    # A finished rollout is kept, and what is played again is said.
    assert f"resumed with iteration 2 ({'its rollouts are kept' if finished else 'rolled out'})" in resumed.stdout
    same(tmp_path / "run", alone)


def test_killed_with_all_that_is_to_be_remembered(tmp_path: Path) -> None:
    """A moving average that reads at every step, refilled groups, dropped ones that are kept, and a bandit's counts."""
    more = [
        *["--config", str(ROOT / "configs" / "teachers" / "ema.yaml"), "--model.teacher_refresh", "step"],
        *["--config", str(ROOT / "configs" / "contexts" / "ucb_skills.yaml")],
        *["--data.max_refills", "2", "--data.play.max_turns", "8", "--data.group_size", "4"],
        *["--data.keep_for_distillation", "true"],
    ]
    alone = fit(tmp_path, "alone", *more)
    assert struck(tmp_path, "update", more=more)[0] == -signal.SIGKILL
    same(fit(tmp_path, "run", *more, "--ckpt_path", "last"), alone)


def test_killed_again_and_again_at_random_moments(alone: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(3):
        saved = any(tmp_path.glob("run/checkpoints/*.ckpt"))
        if not saved:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        victim = subprocess.Popen(
            command(tmp_path, "run", *(["--ckpt_path", "last"] if saved else [])),
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        log = tmp_path / "run" / "episodes.jsonl"
        began, size = time.monotonic(), log.stat().st_size if log.exists() else 0
        # Starting takes longest: wait until this run has written something, so that moments fall into the work.
        while victim.poll() is None and time.monotonic() - began < 60:
            if log.exists() and log.stat().st_size != size:
                break
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2))
        victim.kill()
        victim.wait()
    run = fit(tmp_path, "run", *(["--ckpt_path", "last"] if any(tmp_path.glob("run/checkpoints/*.ckpt")) else []))
    same(run, alone)


@pytest.mark.parametrize(("when", "how"), [("validation", "SIGINT"), ("update", "SIGTERM")])
def test_told_to_stop_it_says_how_to_go_on(when: str, how: str, alone: Path, tmp_path: Path) -> None:
    status, said = struck(tmp_path, when, how)
    assert status == 128 + getattr(signal, how), said
    assert "Traceback" not in said
    advice = re.search(r"stopped\. Go on with: \S+ -m sdar_pl (fit .*)", said)
    assert advice, said
    config, checkpoint = re.findall(r"--(?:config|ckpt_path) (\S+)", advice[1])
    text = Path(config).read_text()
    assert "helpers.mishap.Mishap" in text
    words = advice[1].split()
    Path(config).write_text(text.replace(f"when: {when}", "when: never"))  # else it would strike again
    done = subprocess.run([*command(tmp_path, "")[:3], *words], env=ENVIRONMENT, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(checkpoint).is_file()
    same(tmp_path / "run", alone)


def test_a_second_signal_ends_it_at_once(alone: Path, tmp_path: Path) -> None:
    arguments = command(tmp_path, "run", "--trainer.max_epochs", "50")
    victim = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and victim.poll() is None:
        time.sleep(0.02)
    victim.send_signal(signal.SIGINT)
    victim.send_signal(signal.SIGINT)
    began = time.monotonic()
    said = victim.communicate(timeout=60)[1]
    assert victim.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    assert time.monotonic() - began < 10
    same(fit(tmp_path, "run", "--ckpt_path", "last"), alone)


@pytest.mark.parametrize(("when", "rank"), [("update", 1), ("rollout", 0)])
def test_a_killed_rank_ends_the_others(when: str, rank: int, pair: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    status, _ = struck(tmp_path, when, rank=rank, more=DDP)
    assert status == (1 if rank else -signal.SIGKILL)
    said = (tmp_path / "said.txt").read_text()
    while f"rank {rank} was killed" not in said and time.monotonic() - began < 100:
        time.sleep(0.2)
        said = (tmp_path / "said.txt").read_text()
    assert len(re.findall(r"^error: ", said, re.M)) == 1, said
    assert re.search(r"Go on with: \S+ -m sdar_pl fit", said)
    assert "Traceback" not in said
    time.sleep(1)
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    same(fit(tmp_path, "run", *DDP, "--ckpt_path", "last"), pair)


@pytest.mark.parametrize(
    ("before", "after"), [(("fsdp2", 2), ("auto", 1)), (("auto", 1), ("fsdp2", 4)), (("ddp", 2), ("fsdp2", 2))]
)
def test_another_number_of_ranks_goes_on(
    before: tuple[str, int], after: tuple[str, int], alone: Path, tmp_path: Path
) -> None:
    def ranks(strategy: str, devices: int) -> list[str]:
        return ["--trainer.strategy", strategy, "--trainer.devices", str(devices)]

    struck(tmp_path, "update", more=ranks(*before))  # the checkpoint holds rollouts, to be dealt anew
    run = fit(tmp_path, "run", *ranks(*after), "--ckpt_path", "last")
    # Files of ranks that are no more keep what they have played.
    assert episodes(alone) <= episodes(run)
    for mine, theirs in zip(metrics(run), metrics(alone), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    ours, expected = weights(run), weights(alone)
    assert all((ours[name] - expected[name]).abs().max() < 1e-5 for name in expected)
