"""Callbacks: figures that are worked out by hand, files that read back, and a whole fit of a stand-in module."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from sdar_pl.batch import Batch, Row, collate
from sdar_pl.callbacks import EpisodeLog, GateStats, Progress, Summary, Throughput
from sdar_pl.callbacks.episode_log import collect, forget_after, rendered, row_of
from sdar_pl.callbacks.gate_stats import BUCKETS, splits
from sdar_pl.callbacks.summary import compare
from sdar_pl.errors import UserError
from sdar_pl.runtime.metrics_csv import MetricsCSV
from sdar_pl.runtime.words import count_in_words
from sdar_pl.types import Episode, Observation, Task, Turn


def row(episode: int, turns: list[int], advantage: float) -> Row:
    n = len(turns)
    return Row(episode, 0, list(range(n + 1)), list(range(1, n + 1)), turns, [-1.0] * n, advantages=[advantage] * n)


def micro_batch(rows: list[Row], **records: list[list[float]]) -> tuple[dict[str, Any], Batch]:
    """(outputs of the training step, batch): records are given without padding."""
    batch = collate(rows)
    width = batch.mask.shape[1]
    # Padding is filled with what would spoil every mean that counted it.
    tokens = {k: torch.tensor([[*v, *[1e9] * (width - len(v))] for v in values]) for k, values in records.items()}
    return {"loss": torch.zeros(()), "tokens": tokens}, batch


def turn(response: list[int], action: str = "look", success: bool = False, reward: float = 0.0) -> Turn:
    seen = Observation("You see a desk.", reward=reward, done=success, success=success)
    return Turn([1], response, [-0.5] * len(response), f"<action>{action}</action>", action, True, seen)


def episode(task: str, success: bool, turns: int = 2, kind: str = "look", index: int = 0) -> Episode:
    played = Episode(Task(task, kind, "find the desk"), 0, index, Observation("You are in a room."))
    played.turns = [turn([5, 6]) for _ in range(turns - 1)] + [turn([7], "take", success, 10.0 * success)]
    return played


class Writer:
    """Stands for the module: keeps what is written."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def write(self, values: dict[str, float]) -> None:
        self.values.update(values)


def fake(folder: Path = Path(), **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "is_global_zero": True,
        "world_size": 1,
        "global_rank": 0,
        "loggers": [],
        "current_epoch": 0,
        "max_epochs": 3,
        "sanity_checking": False,
        "state": SimpleNamespace(fn=TrainerFn.FITTING),
        "default_root_dir": str(folder),
        "ckpt_path": None,
        "is_last_batch": True,
        "num_training_batches": 1,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
        "lightning_module": Writer(),
        "datamodule": SimpleNamespace(iteration=None, listeners=[], tasks_per_iteration=2, group_size=2),
    }
    return SimpleNamespace(**{**settings, **changes})


# ---------------------------------------------------------------------- GateStats


def gate_stats(*steps: tuple[dict[str, Any], Batch], trainer: Any = None) -> dict[str, float]:
    trainer = trainer or fake()
    stats = GateStats()
    stats.on_train_epoch_start(trainer, trainer.lightning_module)
    for number, (outputs, batch) in enumerate(steps):
        stats.on_train_batch_end(trainer, trainer.lightning_module, outputs, batch, number)
    stats.on_train_epoch_end(trainer, trainer.lightning_module)
    return dict(trainer.lightning_module.values)


def test_gate_statistics_count_tokens() -> None:
    short = micro_batch([row(0, [0], 1.0)], gate=[[0.9]], gap=[[0.4]])
    long = micro_batch([row(1, [0, 1, 1, 5], -1.0), row(2, [0], 0.0)], gate=[[0.1] * 4, [0.6]], gap=[[-1.0] * 4, [0.2]])
    found = gate_stats(short, long)
    assert found["gate/mean"] == pytest.approx((0.9 + 0.4 + 0.6) / 6)  # the mean of means would be 0.55
    assert found["gate/active"] == pytest.approx(2 / 6)
    assert found["gap/mean"] == pytest.approx((0.4 - 4 + 0.2) / 6)
    assert found["gap/negative_fraction"] == pytest.approx(4 / 6)
    assert found["gate/mean/positive_advantage"] == pytest.approx(0.9)
    assert found["gate/mean/negative_advantage"] == pytest.approx(0.1)
    assert found["gap/mean/zero_advantage"] == pytest.approx(0.2)
    assert found["gate/mean/turns_0"] == pytest.approx((0.9 + 0.1 + 0.6) / 3)
    assert found["gap/mean/turns_1-2"] == pytest.approx(-1)
    assert found["gap/negative_fraction/turns_3-5"] == 1
    assert "gate/mean/turns_6-11" not in found
    assert "gate/mean/turns_12-up" not in found


def test_gate_statistics_take_advantages_by_token() -> None:
    outputs, batch = micro_batch([row(0, [0, 0], 0.0)], gate=[[0.2, 0.8]], gap=[[0.0, 0.0]])
    batch.advantages = torch.tensor([[1.0, -1.0]])
    found = gate_stats((outputs, batch))
    assert found["gate/mean/positive_advantage"] == pytest.approx(0.2)
    assert found["gate/mean/negative_advantage"] == pytest.approx(0.8)


def test_gate_statistics_need_a_teacher() -> None:
    without = micro_batch([row(0, [0, 0, 0], 1.0)])
    assert gate_stats(without) == {}
    found = gate_stats(without, micro_batch([row(1, [0], 1.0)], gate=[[0.7]], gap=[[0.1]]))
    assert found["gate/mean"] == pytest.approx(0.7)
    gap_only = gate_stats(micro_batch([row(1, [0], 1.0)], gap=[[0.1]]))
    assert gap_only["gap/mean"] == pytest.approx(0.1)
    assert "gate/mean" not in gap_only


def test_every_turn_falls_into_one_bucket() -> None:
    turns = torch.arange(60)
    parts = splits(turns, torch.zeros(60))
    by_turn = [inside for name, inside in parts.items() if name.startswith("/turns_")]
    assert len(by_turn) == len(BUCKETS)
    assert torch.stack(by_turn).sum(0).eq(1).all()


def test_tensorboard_gets_histograms_and_text(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    played = SimpleNamespace(episodes=[episode("a", True), episode("b", False)], failed=[], dropped=[])
    tokenizer = SimpleNamespace(decode=lambda tokens: f"t{tokens[0]} ")
    data = SimpleNamespace(iteration=played, prompter=SimpleNamespace(tokenizer=tokenizer))
    trainer = fake(tmp_path, loggers=[logger], datamodule=data)
    step = micro_batch([row(0, [0, 0, 1], 1.0)], gate=[[0.0, 0.5, 1.0]], gap=[[-9.0, 0.0, 9.0]])
    gate_stats(step, trainer=trainer)
    log = EpisodeLog()
    log.setup(trainer, trainer.lightning_module, "fit")
    log.on_train_batch_end(trainer, trainer.lightning_module, *step, 0)
    log.on_train_epoch_end(trainer, trainer.lightning_module)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["histograms"] == ["gate/histogram", "gap/histogram"]
    assert events.Histograms("gate/histogram")[0].histogram_value.num == 3
    assert events.Histograms("gate/histogram")[0].step == 1
    text = events.Tensors("episode/1/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("look · success · reward 10.00")
    assert "    1. t5 ▁t6 ▅\n    > You see a desk." in text  # indented: shown as it is
    assert "no success" in events.Tensors("episode/2/text_summary")[0].tensor_proto.string_val[0].decode()


# ---------------------------------------------------------------------- EpisodeLog


def test_records_are_sorted_by_episode_and_turn() -> None:
    outputs, batch = micro_batch(
        [row(1, [0, 0, 1], 0.5), row(0, [2], -0.5)], gate=[[0.1, 0.2, 0.3], [0.4]], gap=[[1.0, 2.0, 3.0], [4.0]]
    )
    records: dict[tuple[int, int], dict[str, list[float]]] = {}
    collect(records, batch, outputs["tokens"])
    assert set(records) == {(1, 0), (1, 1), (0, 2)}
    assert records[1, 0]["gate"] == pytest.approx([0.1, 0.2])
    assert records[0, 2]["gap"] == [4.0]
    assert records[1, 1]["advantage"] == [0.5]


def test_an_episode_as_json() -> None:
    played = episode("a", True)
    played.turns[0].logprobs = [-0.123456, -math.inf]
    records = {(3, 0): {"gate": [0.98765, 0.5], "advantage": [0.5, 0.5]}}
    line = json.loads(json.dumps(row_of(played, 7, "train", 3, records), allow_nan=False))
    assert next(iter(line)) == "iteration"
    assert line["iteration"] == 7
    assert (line["split"], line["task"], line["kind"], line["success"], line["reward"]) == (
        "train",
        "a",
        "look",
        True,
        10.0,
    )
    first, last = line["turns"]
    assert first["tokens"] == [5, 6]
    assert first["logprobs"] == [-0.1235, None]
    assert first["gate"] == [0.9877, 0.5]
    assert first["advantage"] == 0.5
    assert last["action"] == "take"
    assert last["observation"] == "You see a desk."
    assert "gate" not in last


def test_rendering_without_a_teacher_has_no_marks() -> None:
    text = rendered(episode("a", False), 0, {}, lambda tokens: f"t{tokens[0]}")
    assert "1. t5t6" in text
    assert not set("▂▃▄▅▆▇").intersection(text)


def test_a_resumed_run_forgets_later_lines(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    forget_after(path, 3)  # nothing there yet
    lines = [json.dumps({"iteration": i, "split": "train"}) for i in (0, 1, 2, 10)]
    path.write_text("\n".join(lines) + '\n{"iteration": 1, "spl')  # the last one was cut off
    forget_after(path, 2)
    assert path.read_text().splitlines() == lines[:3]
    assert [file.name for file in tmp_path.iterdir()] == ["episodes.jsonl"]


def test_ranks_and_evaluations_have_their_own_files(tmp_path: Path) -> None:
    log = EpisodeLog()
    for rank, stage, name in (
        (0, "fit", ""),
        (1, "fit", ".rank1"),
        (0, "validate", ".validate"),
        (2, "test", ".test.rank2"),
    ):
        log.setup(fake(tmp_path, global_rank=rank), None, stage)  # type: ignore[arg-type]
        assert log.path == tmp_path / f"episodes{name}.jsonl"
    (tmp_path / "episodes.test.jsonl").write_text("old\n")
    trainer = fake(tmp_path, state=SimpleNamespace(fn=TrainerFn.TESTING))
    log.setup(trainer, trainer.lightning_module, "test")
    log.on_test_batch_end(trainer, trainer.lightning_module, [episode("a", True)], [], 0)
    assert [json.loads(line)["split"] for line in log.path.open()] == ["test"]


def test_train_every_thins_out(tmp_path: Path) -> None:
    log = EpisodeLog(train_every=2, show=0)
    for epoch in range(4):
        played = SimpleNamespace(episodes=[episode("a", True)], failed=[episode("b", False, turns=1)], dropped=[])
        trainer = fake(tmp_path, current_epoch=epoch, datamodule=SimpleNamespace(iteration=played))
        log.setup(trainer, trainer.lightning_module, "fit")
        log.on_train_epoch_end(trainer, trainer.lightning_module)
    assert [json.loads(line)["iteration"] for line in log.path.open()] == [2, 2, 4, 4]
    for wrong in {"train_every": 0}, {"show": -1}:
        with pytest.raises(UserError, match="must be"):
            EpisodeLog(**wrong)


# ---------------------------------------------------------------------- Throughput


def test_throughput() -> None:
    played = SimpleNamespace(rollout_s=2.0, score_s=0.5, generated=300, prefilled=70)
    trainer = fake(datamodule=SimpleNamespace(iteration=played))
    callback = Throughput()
    callback.on_train_epoch_start(trainer, trainer.lightning_module)
    callback.on_train_batch_end(trainer, trainer.lightning_module, {}, None, 0)  # type: ignore[arg-type]
    callback.on_train_epoch_end(trainer, trainer.lightning_module)
    found = trainer.lightning_module.values
    assert found["rollout/tokens_per_s"] == 150
    assert found["rollout/prefilled_tokens"] == 70
    assert (found["time/rollout_s"], found["time/score_s"]) == (2.0, 0.5)
    assert 0 <= found["time/update_s"] < 1


# ---------------------------------------------------------------------- Progress


def progress(terminal: bool) -> tuple[Progress, io.StringIO, Any]:
    bar, out = Progress(), io.StringIO()
    bar._console = Console(file=out, force_terminal=terminal, width=100, highlight=False, soft_wrap=True)
    episodes = [episode("a", True), episode("b", False), episode("c", False), episode("d", False)]
    data = SimpleNamespace(
        iteration=SimpleNamespace(episodes=episodes, dropped=[]), listeners=[], tasks_per_iteration=2, group_size=2
    )
    trainer = fake(datamodule=data)
    bar.setup(trainer, trainer.lightning_module, "fit")
    return bar, out, trainer


def one_iteration(bar: Progress, trainer: Any, *step: Any) -> None:
    module = trainer.lightning_module
    bar.on_sanity_check_end(trainer, module)
    for played in trainer.datamodule.iteration.episodes:
        for listener in trainer.datamodule.listeners:
            listener(played)
    bar.on_train_epoch_start(trainer, module)
    bar.on_train_batch_end(trainer, module, *step, 0)
    bar.on_validation_start(trainer, module)
    bar.on_validation_batch_start(trainer, module, [None, None], 0)
    bar.on_validation_batch_end(trainer, module, [episode("v", True), episode("w", True)])
    bar.on_validation_end(trainer, module)
    bar.on_train_epoch_end(trainer, module)


def test_progress_in_a_file_is_plain_lines() -> None:
    bar, out, trainer = progress(terminal=False)
    one_iteration(bar, trainer, *micro_batch([row(0, [0, 0], 1.0)], gate=[[0.4, 0.6]]))
    bar.on_train_end(trainer, trainer.lightning_module)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("iteration 1/3 · success  25.0 % · reward  2.500 · gate 0.500 · validation 100.0 % · ")
    assert "\x1b" not in line
    assert "\r" not in line


def test_progress_without_a_teacher_and_validation() -> None:
    bar, out, trainer = progress(terminal=False)
    bar.on_train_epoch_start(trainer, trainer.lightning_module)
    bar.on_train_batch_end(trainer, trainer.lightning_module, *micro_batch([row(0, [0], 1.0)]), 0)
    bar.on_train_epoch_end(trainer, trainer.lightning_module)
    assert "· gate     – ·" in out.getvalue()
    assert "validation" not in out.getvalue()


def test_progress_on_a_terminal_counts_episodes() -> None:
    bar, out, trainer = progress(terminal=True)
    notes = []
    trainer.datamodule.listeners.append(lambda _: notes.append((bar.phase, bar._live.tasks[0].fields["note"])))  # type: ignore[union-attr]
    one_iteration(bar, trainer, *micro_batch([row(0, [0, 0], 1.0)], gate=[[0.4, 0.6]]))
    assert notes[0] == ("rolling out", "1/4 · success 100%")
    assert notes[2] == ("rolling out", "3/4 · success 33%")
    assert notes[3] == ("scoring", "")
    assert bar._live is not None
    bar.on_exception(trainer, trainer.lightning_module, KeyboardInterrupt())
    assert bar._live is None
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_progress_is_silent_on_other_ranks() -> None:
    bar = Progress()
    trainer = fake(is_global_zero=False, global_rank=1, world_size=2)
    bar.setup(trainer, trainer.lightning_module, "fit")
    assert bar.console.quiet
    assert trainer.datamodule.listeners == []


def test_counts_count_in_words() -> None:
    assert [count_in_words(n) for n in (12, 1_500, 1_234_567, 7_600_000_000)] == ["12", "1.5 k", "1.2 M", "7.6 B"]


# ---------------------------------------------------------------------- Summary


def test_summary_pairs_tasks() -> None:
    before = {"a": ("look", 0.0), "b": ("look", 1.0), "c": ("heat", 0.0), "gone": ("heat", 1.0)}
    after = {"a": ("look", 1.0), "b": ("look", 1.0), "c": ("heat", 0.0)}
    found = compare(before, after)
    assert found is not None
    assert (found["before"], found["after"], found["n"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)
    assert found["difference"] == pytest.approx(1 / 3)
    assert found["interval"] == [0.0, 1.0]
    assert found["kinds"] == {
        "look": {"before": 0.5, "after": 1.0, "n": 2},
        "heat": {"before": 0.0, "after": 0.0, "n": 1},
    }
    assert compare({}, after) is None


# ---------------------------------------------------------------------- all of them under a real Trainer


class Data(L.LightningDataModule):
    """Plays without an engine: task number n succeeds from iteration n on."""

    tasks_per_iteration, group_size = 2, 1
    environment = SimpleNamespace()
    prompter = SimpleNamespace(tokenizer=SimpleNamespace(decode=str))

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Any] = []
        self.iteration: Any = None

    def panel(self, stage: str) -> list[str]:
        return ["0", "1", "2"]

    def train_dataloader(self) -> DataLoader[Any]:
        episodes = [episode("x", True, turns=1), episode("y", False, turns=2)]
        for played in episodes:
            for listener in self.listeners:
                listener(played)
        self.iteration = SimpleNamespace(
            episodes=episodes,
            failed=[],
            dropped=[],
            rollout_s=1.0,
            score_s=0.1,
            generated=5,
            prefilled=9,
            restored=False,
        )
        batches = [collate([row(0, [0], 1.0)]), collate([row(1, [0, 0, 1], -1.0)])]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([list(enumerate(self.panel("validate")))], batch_size=None)  # type: ignore[arg-type]


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.policy: Any = torch.nn.Linear(1, 1)
        self.policy.source, self.policy.lora = SimpleNamespace(name="stand-in"), None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        gate = torch.full_like(batch.mask, 0.25 if len(batch.turns[0]) == 3 else 0.75)
        return {"loss": self.policy(torch.ones(1)).sum(), "tokens": {"gate": gate, "gap": gate - 0.5}}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        iteration = 0 if self.trainer.sanity_checking else self.trainer.current_epoch + 1
        return [episode(name, number < iteration) for number, name in batch]

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path:
            self.trainer.num_sanity_val_steps = 0

    def write(self, values: dict[str, float]) -> None:
        self.log_dict({**values, "step": float(self.trainer.current_epoch + 1)})


def trainer_of(folder: Path, epochs: int) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=MetricsCSV(folder),
        callbacks=[
            *(GateStats(), EpisodeLog(), Throughput(), Progress(), Summary()),
            ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=True, enable_version_counter=False),
        ],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=-1,
        log_every_n_steps=1,
        enable_model_summary=False,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_fit_and_its_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for name in "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE":
        monkeypatch.delenv(name, raising=False)
    trainer_of(tmp_path, 1).fit(Module(), Data())
    out = capsys.readouterr().out
    assert "iteration 0/1 · untrained · validation   0.0 %" in out
    assert "iteration 1/1 · success  50.0 % · reward  5.000 · gate 0.375 · validation  33.3 %" in out
    trainer_of(tmp_path, 2).fit(Module(), Data(), ckpt_path=str(tmp_path / "last.ckpt"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "iteration 2/2" in out
    assert "untrained" not in out
    assert f"tensorboard --logdir {tmp_path}" in out

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["iterations"], summary["n"]) == ([0, 2], 3)
    assert (summary["before"], summary["after"]) == (0.0, pytest.approx(2 / 3))
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").open()]
    seen = [(line["iteration"], line["split"]) for line in rows]
    assert {key: seen.count(key) for key in seen} == {
        **{(i, "validation"): 3 for i in (0, 1, 2)},
        **{(i, "train"): 2 for i in (1, 2)},
    }
    assert next(line for line in rows if line["task"] == "y")["turns"][0]["gate"] == [0.25, 0.25]
    metrics = {int(line["step"]): line for line in csv.DictReader((tmp_path / "metrics.csv").open())}
    for number in 1, 2:
        assert float(metrics[number]["gate/mean"]) == pytest.approx((0.75 + 3 * 0.25) / 4)
        assert float(metrics[number]["rollout/tokens_per_s"]) == 5.0
        assert metrics[number]["gap/mean/turns_1-2"] == "-0.25"
