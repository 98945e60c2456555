"""Rollouts that are kept: those of a checkpoint, and the next iteration's, played ahead of time on a server."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import fit, fit_here, metrics, same, struck
from helpers.small_vllm import SmallVLLM

from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import TransformersEngine, VLLMEngine
from sdar_pl.errors import UserError
from sdar_pl.objectives import GRPO, Distillation, Objective, ScoreCentering, TopKDivergence
from sdar_pl.policy import LoRA, Policy
from sdar_pl.sampling.compatibility import ask_for_likeliest, refuse_ahead
from sdar_pl.sampling.iteration import Iteration
from sdar_pl.sampling.kept_rollouts import KeptRollouts
from sdar_pl.skills.reflections import Reflections
from sdar_pl.types import Episode


@pytest.fixture
def server() -> SmallVLLM:
    policy = Policy("tiny-household", lora=LoRA(r=16, alpha=32))
    policy.build()
    return SmallVLLM(policy)


@pytest.fixture
def url(server: SmallVLLM) -> Iterator[str]:
    with server.running() as url:
        yield url


def on(url: str, *more: str) -> list[str]:
    servers = ["--data.engine.servers", json.dumps([url])]
    return ["--data.engine", "sdar_pl.engines.VLLMEngine", *servers, "--data.ahead", "1", *more]


def test_each_iteration_is_of_the_weights_before_and_corrected(server: SmallVLLM, url: str, tmp_path: Path) -> None:
    run = fit_here(tmp_path, *on(url), "--trainer.max_epochs", "3", "--trainer.limit_val_batches", "0")
    rows = metrics(run)
    assert [row["rollout/age"] for row in rows] == [0, 1, 1]
    bodies = [body for path, body in server.calls if path == "/v1/completions" and not 1000 <= body["seed"] < 1010]
    names = list(dict.fromkeys(body["model"] for body in bodies))
    assert len(names) == 2, "iterations 1 and 2 are of the first weights, 3 is of those after the first update"
    mismatch = [row["engine/logprob_mismatch"] for row in rows]
    assert mismatch[0] < 1e-4 < min(mismatch[1:])
    assert min(row["engine/effective_sample_size"] for row in rows[1:]) < rows[0]["engine/effective_sample_size"]


def test_the_seconds_of_a_rollout_are_its_own(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those for which training waits, of which an update holds none."""
    play = RolloutDataModule._play

    def slow(*arguments: Any, **options: Any) -> list[Episode]:
        time.sleep(3.0)
        return play(*arguments, **options)

    monkeypatch.setattr(RolloutDataModule, "_play", slow)
    run = fit_here(tmp_path, *on(url), "--trainer.limit_val_batches", "0")
    rows = [
        {name: float(value or 0) for name, value in row.items()} for row in csv.DictReader((run / "metrics.csv").open())
    ]
    for row in rows:
        assert row["time/rollout_s"] >= 3.0
        rate = row["rollout/generated_tokens"] / row["time/rollout_s"]
        assert row["rollout/tokens_per_s"] == pytest.approx(rate, rel=1e-3)
    assert sum(row["time/wait_s"] for row in rows) > 0.5


@pytest.mark.slow
def test_a_run_centres_the_score_with_the_servers_likeliest_tokens(url: str, tmp_path: Path) -> None:
    """The first iteration, of equal weights on both sides, has the loss of truncated importance sampling; the next, of
    the weights before, has another."""
    options = ["--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0", "--data.tasks_per_iteration", "4"]
    options += ["--data.play.max_turns", "12", "--data.sampling.max_new_tokens", "24"]  # enough to succeed at times
    truncated = ["--model.correction", "TruncatedImportance", "--model.correction.cap", "0.9"]
    plain = metrics(fit_here(tmp_path / "a", *on(url), *options, *truncated))
    assert min(abs(row["loss/policy"]) for row in plain) > 0
    centring = ["--model.correction", "ScoreCentering", "--model.correction.cap", "0.9"]
    more = ["--model.correction.top_k", "12"]
    centred = metrics(fit_here(tmp_path / "b", *on(url), *options, *centring, *more))
    assert centred[0]["train/reward"] == plain[0]["train/reward"]
    assert centred[0]["loss/policy"] == pytest.approx(plain[0]["loss/policy"], abs=1e-4)
    assert abs(centred[1]["loss/policy"] - plain[1]["loss/policy"]) > 1e-6


def test_likeliest_tokens_that_nobody_gives_are_refused() -> None:
    with pytest.raises(UserError, match="engine with weights of its own"):
        ask_for_likeliest(ScoreCentering(), TransformersEngine(), GRPO())
    divergence = Objective(distillation=Distillation(TopKDivergence()))
    with pytest.raises(UserError, match="top-k divergence"):
        ask_for_likeliest(ScoreCentering(), VLLMEngine(["http://x"]), divergence)


def test_an_evaluation_waits_for_the_rollout(server: SmallVLLM, url: str, tmp_path: Path) -> None:
    """The rollout ahead asks for nothing any more when the panel's weights are loaded."""
    fit_here(tmp_path, *on(url))
    asked = [(path, body) for path, body in server.calls if path in ("/v1/completions", "/v1/load_lora_adapter")]
    loaded: list[str] = []
    for path, body in asked:
        if path == "/v1/load_lora_adapter":
            loaded.append(body["lora_name"])
        else:
            assert body["model"] == loaded[-1]


@pytest.mark.slow
def test_a_resumed_run_neither_loses_nor_repeats_a_rollout(url: str, tmp_path: Path) -> None:
    more = on(url, "--trainer.max_epochs", "3")
    alone = fit(tmp_path, "alone", *more)
    assert [row["rollout/age"] for row in metrics(alone) if "rollout/age" in row] == [0, 1, 1]
    assert struck(tmp_path, "update", more=more)[0] == -signal.SIGKILL
    same(fit(tmp_path, "run", *more, "--ckpt_path", "last"), alone)


def test_what_ends_a_rollout_is_raised_where_it_is_wanted() -> None:
    def fails() -> Iteration:
        raise UserError("data.engine.servers: none")

    kept = KeptRollouts()
    kept.begin(fails)
    assert kept.state_dict(None) == {"iteration": None, "ahead": None}, "a checkpoint is written all the same"
    with pytest.raises(UserError, match="none"):
        kept.take(1, {})


def test_a_rollout_of_another_epoch_is_not_taken() -> None:
    kept = KeptRollouts()
    kept.begin(lambda: Iteration(3, [], [], 1))
    assert kept.take(2, {}) is None
    assert kept.take(3, {}) is None, "and is gone"


@pytest.mark.parametrize(
    ("engine", "refills", "word"), [(TransformersEngine(), 0, "VLLMEngine"), (VLLMEngine(["http://x"]), 1, "dropped")]
)
def test_what_cannot_be_played_ahead_is_refused(engine: Any, refills: int, word: str) -> None:
    refuse_ahead(0, engine, refills)
    with pytest.raises(UserError, match=word) as error:
        refuse_ahead(1, engine, refills)
    assert str(error.value).startswith("data.ahead: ")


def test_notes_that_the_same_engine_writes_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.ahead: 1 rolls out while Reflections"):
        refuse_ahead(1, VLLMEngine(["http://x"]), 0, Reflections())
