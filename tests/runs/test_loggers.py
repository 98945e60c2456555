"""Loggers by configuration: TensorBoard by itself, CSV, W&B without a network, MLflow with a file store.

metrics.csv and the report are there with each of them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.evidence import required
from helpers.runs import fit, fit_here, metrics
from helpers.scripted import events

from sdar_pl.callbacks.episode_tables import COLUMNS

pytestmark = pytest.mark.slow
NAMES = ("train/success", "gap/mean", "val/success")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No logger writes into the working folder."""
    before = tmp_path / "here"
    before.mkdir()
    monkeypatch.chdir(before)
    yield
    assert not list(before.iterdir())


def fitted(folder: Path, *options: str) -> Path:
    """A run of one iteration, 8 episodes, with the report of the loggers' run."""
    run = fit_here(folder / "runs", "--trainer.max_epochs", "1", *options)
    assert_reported(run)
    return run


def assert_reported(run: Path) -> None:
    assert [row["step"] for row in metrics(run)] == [0, 1]
    assert (run / "report.html").is_file()


def table(path: Path) -> list[dict[str, object]]:
    """The rows of a table that W&B or MLflow keeps as JSON."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["columns"] == list(COLUMNS)
    return [dict(zip(COLUMNS, row, strict=True)) for row in stored["data"]]


def assert_same_episodes(rows: list[dict[str, object]], run: Path) -> None:
    """The table holds the training episodes of episodes.jsonl, with a gap and a transcript."""
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["split"] == "train"]
    names = ("iteration", "task", "kind", "success", "reward")
    assert [[row[name] for name in names] for row in rows] == [[line[name] for name in names] for line in trained]
    assert [row["turns"] for row in rows] == [len(line["turns"]) for line in trained]
    assert all(isinstance(row["gap"], float) and "gate ▁ 0 … █ 1" in str(row["episode"]) for row in rows)


def test_tensorboard_by_itself(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    scalars = events(run).Tags()
    assert {*NAMES} <= {*scalars["scalars"]}
    assert "episode/1/text_summary" in scalars["tensors"]


def test_csv(tmp_path: Path) -> None:
    fitted(tmp_path, "--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir",
           str(tmp_path / "logs"))  # fmt: skip
    (file,) = (tmp_path / "logs").glob("*/*/metrics.csv")
    with file.open() as text:
        rows = list(csv.DictReader(text))
    assert all(any(row[name] for row in rows) for name in NAMES)


def test_weights_and_biases_offline(tmp_path: Path) -> None:
    """In a process of its own, whose end writes the last records."""
    required("wandb", "a run logs to W&B; pip install 'sdar_pl[wandb]'")
    logger = ["--trainer.logger", "lightning.pytorch.loggers.WandbLogger", "--trainer.logger.save_dir", str(tmp_path)]
    run = fit(tmp_path, "run", "--trainer.max_epochs", "1", *logger, "--trainer.logger.offline", "true")
    assert_reported(run)
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    written = record.read_bytes()
    for name in (*NAMES, "tasks_per_iteration"):
        assert name.encode() in written, name
    (episodes,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/episodes_*.table.json")
    assert_same_episodes(table(episodes), run)


def test_mlflow_with_a_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "pandas"):
        required(name, "a run logs to MLflow; pip install 'sdar_pl[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = tmp_path / "mlruns"
    logger = ["--trainer.logger", "lightning.pytorch.loggers.MLFlowLogger"]
    run = fitted(tmp_path, *logger, "--trainer.logger.tracking_uri", store.as_uri())
    (success,) = store.glob("*/*/metrics/train/success")
    assert len(success.read_text().splitlines()) == 1
    (panels,) = store.glob("*/*/metrics/val/success")
    assert len(panels.read_text().splitlines()) == 2  # before the training, and after it
    (look,) = store.glob("*/*/metrics/val/success.look_at_obj_in_light")  # a file cannot be in the file val/success
    assert len(look.read_text().splitlines()) == 2
    (group,) = store.glob("*/*/params/data/group_size")
    assert group.read_text() == "4"
    (episodes,) = store.glob("*/*/artifacts/episodes/iteration-0001.json")
    assert_same_episodes(table(episodes), run)
