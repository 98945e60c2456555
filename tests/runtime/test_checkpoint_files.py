"""Checkpoint files: written whole or not at all, refused where they do not belong, read by other tools."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.builders import an_episode
from helpers.runs import fit_here, metrics, weights

from sdar_pl.batch import Row, collate, pack, rows_of, uncollate
from sdar_pl.cli import main
from sdar_pl.errors import UserError
from sdar_pl.modeling.sources import ASSETS
from sdar_pl.policy import LoRA, Policy, packaged_models
from sdar_pl.runtime.checkpoint_files import SafeCheckpointIO, checkpoint_problem, newest_good, same_file
from sdar_pl.sampling.iteration import Iteration, restore
from sdar_pl.types import Episode

GOOD = {"state_dict": {"w": torch.arange(1000.0)}, "sdar_pl": {}}


def saved(path: Path, content: Any = GOOD) -> Path:
    SafeCheckpointIO().save_checkpoint(content, path)
    return path


# ---------------------------------------------------------------------- writing


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "last.ckpt")

    def full(value: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt \(No space left on device\)"):
        saved(path, {})
    assert not checkpoint_problem(path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_second_name_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "iteration-0001.ckpt")
    same_file(path, "last.ckpt")
    assert (tmp_path / "last.ckpt").samefile(path)
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    same_file(path, "last.ckpt")
    assert not checkpoint_problem(tmp_path / "last.ckpt")


# ---------------------------------------------------------------------- trust


def damaged(path: Path, how: str) -> Path:
    raw = bytearray(path.read_bytes())
    if how == "cut off":
        raw = raw[: len(raw) // 2]
    elif how == "empty":
        raw = bytearray()
    elif how == "text":
        raw = bytearray(b"not a checkpoint at all")
    elif how == "a changed byte":
        raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "a changed byte"])
def test_what_is_no_checkpoint_is_found_out(how: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "some.ckpt")
    assert not checkpoint_problem(path)
    assert checkpoint_problem(damaged(path, how))
    with pytest.raises(UserError, match=r"ckpt_path: .*some\.ckpt"):
        newest_good(path)


def test_foreign_checkpoints_are_found_out(tmp_path: Path) -> None:
    assert checkpoint_problem(saved(tmp_path / "a.ckpt", {"state_dict": {}})) == "it is not a checkpoint of sdar_pl"
    assert checkpoint_problem(saved(tmp_path / "b.ckpt", [1, 2])) == "it is not a checkpoint of sdar_pl"
    assert "cannot be read" in checkpoint_problem(
        saved(tmp_path / "c.ckpt", {"code": Row})
    )  # would run code on loading
    shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path)
    assert checkpoint_problem(tmp_path / "d.zip") == "it is not a checkpoint"
    assert checkpoint_problem(tmp_path / "none.ckpt") == "there is no such file"


@pytest.mark.parametrize("how", ["cut off", "a changed byte", "gone"])
def test_a_bad_last_one_gives_way_to_the_one_before(how: str, tmp_path: Path) -> None:
    for name in ("iteration-0001.ckpt", "iteration-0002.ckpt", "last.ckpt"):
        saved(tmp_path / name)
    last = tmp_path / "last.ckpt"
    if how == "gone":
        last.unlink()
    else:
        damaged(last, how)
    damaged(tmp_path / "iteration-0002.ckpt", "cut off")
    with pytest.warns(UserWarning, match=r"last\.ckpt: .*; iteration-0001\.ckpt takes its place"):
        assert newest_good(last).name == "iteration-0001.ckpt"
    damaged(tmp_path / "iteration-0001.ckpt", "empty")
    with pytest.raises(UserError):
        newest_good(last)


# ---------------------------------------------------------------------- what is in them


def some_rows(history: str) -> tuple[list[Episode], list[Row]]:
    """Two episodes of each of six groups, scored."""
    episodes = [replace(an_episode(), group=group, index=index) for group in range(6) for index in range(2)]
    rows = [row for i, episode in enumerate(episodes) for row in rows_of(episode, i, history)]
    for number, row in enumerate(rows):
        row.advantages = [number / 8] * len(row.positions)
        row.old_logprobs, row.teacher_logprobs = (
            [value * part for value in row.engine_logprobs] for part in (1.5, 0.5)
        )
    return episodes, rows


def key(row: Row) -> tuple[Any, ...]:
    return (
        row.group,
        row.tokens,
        row.positions,
        row.turns,
        row.engine_logprobs,
        row.advantages,
        row.old_logprobs,
        row.teacher_logprobs,
        row.reference_logprobs,
    )


def reading(row: Row) -> tuple[list[int], list[int]]:
    """As the teacher reads it."""
    return row.as_teacher().tokens, row.as_teacher().positions


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("history", ["conversation", "windowed"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_rollouts_are_dealt_to_any_number_of_ranks(history: str, world: int, later: bool, tmp_path: Path) -> None:
    """Also where the teacher still has to read them (``later``)."""
    episodes, rows = some_rows(history)
    assert any(reading(row)[0] != row.tokens for row in rows)
    assert sorted(map(key, uncollate(collate(rows)))) == sorted(map(key, rows))

    def share(rank: int, world: int) -> tuple[list[Episode], list[Row]]:
        mine = [i for i, episode in enumerate(episodes) if episode.group % world == rank]
        return [episodes[i] for i in mine], [
            replace(row, episode=mine.index(row.episode)) for row in rows if row.group % world == rank
        ]

    parts = []
    for rank in range(2):
        played, made = share(rank, 2)
        chunks = [[made[i] for i in chunk] for chunk in pack(made, 40)]
        batches = [collate(chunk) for chunk in chunks]
        for batch, chunk in zip(batches, chunks, strict=True):
            batch.teacher_batch = collate([row.as_teacher() for row in chunk]) if later else None
        part = Iteration(4, played, batches, 1, generated=10, failed=[replace(played[0], failed="it hung")])
        part.dropped, part.dropped_groups, part.refills = [replace(played[0], index=7)], 2, 1
        parts.append(part)
    file = saved(tmp_path / "x", {"key": [0], "ranks": [part.to_plain() for part in parts]})
    plain = torch.load(file, weights_only=True)
    generated = failed = dropped = refills = 0
    for rank in range(world):
        assert restore(plain, [1], 4, rank, world) == restore(plain, [0], 5, rank, world) == (None, [])
        iteration, dealt = restore(plain, [0], 4, rank, world)
        assert iteration is not None
        assert iteration.restored
        played, made = share(rank, world)
        assert iteration.epoch == 4
        assert iteration.episodes == played
        if world == 2:
            assert not dealt
            dealt = [row for batch in iteration.batches for row in uncollate(batch)]
        assert sorted((row.episode, *key(row)) for row in dealt) == sorted((row.episode, *key(row)) for row in made)
        if later:
            assert sorted(map(reading, dealt)) == sorted(map(reading, made))
        generated, failed = generated + iteration.generated, failed + len(iteration.failed)
        dropped, refills = dropped + iteration.dropped_groups, refills + iteration.refills
        assert all(episode.index == 7 and episode.group % world == rank for episode in iteration.dropped)
    assert (generated, failed, dropped, refills) == (20, 2, 4, 2)


# ---------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of the tiny policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("run"), "--trainer.max_epochs", "3")


def test_the_last_and_the_best_are_kept(run: Path) -> None:
    folder = run / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert names == {"last.ckpt", "best.ckpt", "iteration-0002.ckpt", "iteration-0003.ckpt"}
    assert (folder / "last.ckpt").samefile(folder / "iteration-0003.ckpt")
    success = [row["val/success"] for row in metrics(run)][1:]
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["epoch"] == success.index(max(success))  # the first of equals
    assert not any(torch.is_tensor(part) and part.numel() > 50_000 for part in best["state_dict"].values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.policy.model", "{qwen2}"], "base model 'tiny-household'"),
        (["--model.policy.lora.r", "4"], "lora"),
        (["--model.objective", "sdar_pl.objectives.GRPO"], "another method (objective: SDAR, here GRPO)"),
        (["--model.objective.init_args.coefficient", "0.5"], "objective.distillation.coefficient: 1.0, here 0.5"),
        (["--data.advantage", "sdar_pl.objectives.advantages.BatchAdvantage"], "advantage"),
        (["--model.teacher", "sdar_pl.teachers.MovingAverage"], "teacher: Initial, here MovingAverage"),
        (["--model.teacher_refresh", "step"], "teacher_refresh: 'iteration', here 'step'"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    arguments: list[str], words: str, run: Path, models: dict[str, Path], tmp_path: Path, capfd: Any
) -> None:
    filled = [part.format(**{name: str(path) for name, path in models.items()}) for part in arguments]
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "last.ckpt", folder)
    fit_here(tmp_path, *filled, "--ckpt_path", str(folder / "last.ckpt"), status=2)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ckpt_path: made with")
    assert words in errors[0]


@pytest.mark.slow
def test_a_damaged_last_checkpoint_costs_no_more_than_an_iteration(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    damaged(tmp_path / "run" / "checkpoints" / "iteration-0003.ckpt", "a changed byte")
    damaged(tmp_path / "run" / "checkpoints" / "last.ckpt", "cut off")
    with pytest.warns(UserWarning, match=r"iteration-0002\.ckpt takes its place"):
        resumed = fit_here(tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert metrics(resumed) == metrics(run)
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in weights(resumed).items())


@pytest.mark.slow
def test_changed_data_makes_new_rollouts(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts that a checkpoint holds are only trained on by the run that made them."""
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "iteration-0002.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr("sdar_pl.module.SDARModule.training_step", lambda *_: (_ for _ in ()).throw(UserError("stop")))
        fit_here(tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", str(last), status=2)
    state = torch.load(last.with_name("last.ckpt"), weights_only=True)["RolloutDataModule"]
    assert state["iteration"]["ranks"][0]["epoch"] == 2
    last = last.with_name("last.ckpt")
    with pytest.warns(UserWarning, match="its rollouts are replaced"):
        fit_here(tmp_path, "--trainer.max_epochs", "3", "--data.group_size", "2", "--ckpt_path", str(last))


@pytest.mark.slow
def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    more = ("--model.policy.lora.dropout", "0.2", "--trainer.max_epochs", "2")
    whole = fit_here(tmp_path / "whole", *more)
    fit_here(tmp_path / "parts", *more[:2], "--trainer.max_epochs", "1")
    resumed = fit_here(tmp_path / "parts", *more, "--ckpt_path", "last")
    assert metrics(resumed) == metrics(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())


# ---------------------------------------------------------------------- export


def logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = net.eval()(torch.arange(5, 25)[None]).logits
    return values


@pytest.mark.slow
def test_adapters_load_in_plain_peft_and_merge(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    best = run / "checkpoints" / "best.ckpt"
    policy = Policy("tiny-household", lora=LoRA())
    policy.build()
    known = torch.load(best, weights_only=True)["state_dict"]
    wrong = policy.load_state_dict({k.removeprefix("policy."): v for k, v in known.items()}, strict=False)
    assert not wrong.unexpected_keys
    expected = logits(policy.net)

    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "adapter")]) == 0
    for folder in (run / "adapter", tmp_path / "adapter"):
        base = AutoModelForCausalLM.from_pretrained(ASSETS / packaged_models()[0])
        assert not torch.allclose(logits(base), expected, atol=1e-5)
        assert torch.equal(logits(PeftModel.from_pretrained(base, str(folder))), expected)

    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "model"), "--merge"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "model").chat_template
    capsys.readouterr()
    assert main(["export", "--ckpt_path", str(best), "--out", str(tmp_path / "model")]) == 2
    assert main(["export", "--ckpt_path", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "new")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--out" in first
    assert "there is no such file" in second


@pytest.mark.slow
def test_fully_trained_weights_are_exported_whole(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    more = ["--model.policy.lora", "null", "--model.objective.init_args.reference_coefficient", "0"]
    more += ["--model.teacher", "sdar_pl.teachers.Current"]
    made = fit_here(tmp_path / "full", *more, "--trainer.max_epochs", "1")
    last = made / "checkpoints" / "last.ckpt"
    assert not (made / "adapter").exists()
    assert main(["export", "--ckpt_path", str(last), "--out", str(tmp_path / "a")]) == 2
    assert main(["export", "--ckpt_path", str(last), "--out", str(tmp_path / "b"), "--merge"]) == 0
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    known = weights(made)["policy.net.model.embed_tokens.weight"]
    assert torch.equal(net.get_input_embeddings().weight, known)
