"""The rollouts of an iteration: new ones at every epoch, by an engine that has the policy's present weights."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import fit_here, metrics

from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.engines import TransformersEngine
from sdar_pl.policy import Policy


class SnapshotEngine(TransformersEngine):
    """Generates with a copy of the weights, taken at ``sync``, as an engine in another process does."""

    def sync(self, policy: Policy) -> None:
        super().sync(copy.deepcopy(policy))


FAST = ["--trainer.max_epochs", "3", "--trainer.limit_val_batches", "0", "--model.optimizer.init_args.lr", "0.05"]


def test_every_iteration_is_rolled_out_anew(tmp_path: Path) -> None:
    run = fit_here(tmp_path, *FAST)
    tasks, tokens = defaultdict(set), defaultdict(list)
    for line in map(json.loads, (run / "episodes.jsonl").read_text().splitlines()):
        tasks[line["iteration"]].add(line["task"])
        tokens[line["iteration"]].append([turn["tokens"] for turn in line["turns"]])
    assert sorted(tasks) == [1, 2, 3]
    assert all(len(tasks[i]) == 2 and not tasks[i] & tasks[i + 1] for i in (1, 2)), "the split's next tasks"
    assert tokens[1] != tokens[2] != tokens[3]


def test_the_engine_is_given_the_present_weights_before_every_rollout(tmp_path: Path) -> None:
    """Sampled with older weights, responses would have other log-probs under the trainer's."""
    run = fit_here(tmp_path, *FAST, "--data.engine", f"{__name__}.SnapshotEngine")
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["engine/logprob_mismatch"] < 1e-4 for row in rows)
    stale = [row["policy/approx_kl"] for row in rows]
    assert stale == [0.0] * 3, "one optimizer step an iteration: what is trained on is on-policy"


def test_the_parts_are_one_object_in_both_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    original = RolloutDataModule.setup

    def setup(self: RolloutDataModule, stage: str) -> None:
        module = self.trainer.lightning_module
        seen.update({name: getattr(self, name) is getattr(module, name) for name in ("policy", "objective", "teacher")})
        seen["teacher_refresh"] = (self.teacher_refresh, module.teacher_refresh)
        original(self, stage)

    monkeypatch.setattr(RolloutDataModule, "setup", setup)
    fit_here(tmp_path, "--trainer.max_epochs", "0", "--model.teacher_refresh", "step")
    assert seen == {"policy": True, "objective": True, "teacher": True, "teacher_refresh": ("step", "step")}
