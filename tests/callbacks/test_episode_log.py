"""EpisodeLog: episodes.jsonl of runs and evaluations, and the episodes shown in TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import episode, events, fit_script, row, scripted

from sdar_pl.batch import collate
from sdar_pl.callbacks import EpisodeLog
from sdar_pl.callbacks.episode_log import Records, collect, forget_after, rendered, row_of
from sdar_pl.errors import UserError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------------- rows


def test_records_are_sorted_by_episode_and_turn() -> None:
    batch = collate([row(1, [0, 0, 1], [0.5] * 3), row(0, [2], [-0.5])])
    tokens = {"gate": batch.mask * 0.25, "gap": batch.turns + 1.0, "other": batch.mask}
    records: Records = {}
    collect(records, batch, tokens)
    assert records == {
        (1, 0): {"advantage": [0.5, 0.5], "gap": [1.0, 1.0], "gate": [0.25, 0.25]},
        (1, 1): {"advantage": [0.5], "gap": [2.0], "gate": [0.25]},
        (0, 2): {"advantage": [-0.5], "gap": [3.0], "gate": [0.25]},
    }


def test_an_episode_as_json() -> None:
    played = episode("a", True, kind="look")
    played.context, played.turns[0].logprobs = "Look behind you.", [-0.123456, -math.inf]
    records = {(3, 0): {"gate": [0.98765, 0.5], "advantage": [0.5, 0.25]}}
    line = json.loads(json.dumps(row_of(played, 7, "train", 3, records), allow_nan=False))
    assert next(iter(line)) == "iteration", "forget_after reads it there"
    first, last = line.pop("turns")
    assert line == {
        **{"iteration": 7, "split": "train", "task": "a", "kind": "look", "text": "find the desk"},
        **{
            "group": 0,
            "index": 0,
            "success": True,
            "reward": 10.0,
            "score": None,
            "parts": {},
            "penalty": 0.0,
            "failed": "",
            "overflow": False,
        },
        **{"context": "Look behind you.", "first": "You are in a room."},
    }
    assert first["tokens"] == [65, 66]
    assert first["logprobs"] == [-0.1235, None]
    assert first["gate"] == [0.9877, 0.5]
    assert first["advantage"] == 0.375
    assert (last["action"], last["observation"], last["reward"]) == ("take", "You see a desk.", 10.0)
    assert "gate" not in last


@pytest.mark.parametrize(
    ("gates", "text"),
    [
        ([0.0, 1.0], "1. t65▁t66█"),
        ([0.124, 0.126], "1. t65▁t66▂"),
        ([-0.5, 1.5], "1. t65▁t66█"),
        ([float("nan"), 1.0], "1. t65?t66█"),
        (None, "1. t65t66"),
    ],
)
def test_marks_show_the_gates(gates: list[float] | None, text: str) -> None:
    records: Records = {(0, 0): {"gate": gates}} if gates else {}
    shown = rendered(episode("a", False), 0, records, lambda tokens: f"t{tokens[0]}").splitlines()
    assert shown[0] == "    echo · no success · reward 0.00 · gate ▁ 0 … █ 1"
    assert shown[2:] == [f"    {line}" for line in ("> You are in a room.", "", text, *AFTER)]


AFTER = ("> You see a desk.", "", "2. t67", "> You see a desk.")


def test_a_resumed_run_forgets_later_lines(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    forget_after(path, 3)  # nothing there yet
    assert not path.exists()
    kept = [json.dumps({"iteration": i, "split": "train"}) for i in (0, 1, 2, 10)]
    path.write_text("\n".join(kept) + '\n{"iteration": 1, "spl')  # the last one was cut off
    forget_after(path, 2)
    assert path.read_text().splitlines() == kept[:3]
    assert [file.name for file in tmp_path.iterdir()] == ["episodes.jsonl"]


# ---------------------------------------------------------------------- runs


def a_rollout(index: int) -> Any:
    episodes = [episode(f"a{index}", True), episode(f"b{index}", False), episode(f"c{index}", False, failed="it hung")]
    return episodes, [([row(0, [0, 0, 1], [1.0] * 3)], {"gate": [[0.0, 0.5, 1.0]], "gap": [[-9.0, 0.0, 9.0]]})]


def test_a_fit_writes_training_and_panels(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    (tmp_path / "episodes.jsonl").write_text("of another run\n")
    fit_script(tmp_path, make_policy(), [EpisodeLog()], [a_rollout(0), a_rollout(1)])
    found = lines(tmp_path / "episodes.jsonl")
    panel = [(str(task), "validation") for task in range(3)]
    assert [(line["iteration"], line["task"], line["split"]) for line in found] == [
        *((0, *key) for key in panel),
        *((1, *key) for key in panel),
        *((1, name, "train") for name in ("a0", "b0", "c0")),
        *((2, *key) for key in panel),
        *((2, name, "train") for name in ("a1", "b1", "c1")),
    ]
    (trained,) = [line for line in found if line["task"] == "a0"]
    assert [turn.get("gate") for turn in trained["turns"]] == [[0.0, 0.5], [1.0]]
    assert [turn.get("advantage") for turn in trained["turns"]] == [1.0, 1.0]
    assert all("gate" not in turn for line in found if line["task"] == "b0" for turn in line["turns"])


def test_train_every_thins_out_training_alone(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    log = EpisodeLog(train_every=2, show=0)
    fit_script(tmp_path, make_policy(), [log], [a_rollout(index) for index in range(4)])
    found = lines(tmp_path / "episodes.jsonl")
    assert [line["iteration"] for line in found if line["split"] == "train"] == [2] * 3 + [4] * 3
    assert {line["iteration"] for line in found if line["split"] == "validation"} == {0, 1, 2, 3, 4}
    assert not events(tmp_path).Tags()["tensors"], "none is shown"


def test_the_best_and_the_worst_are_shown(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    fit_script(tmp_path, make_policy(), [EpisodeLog()], [a_rollout(0)], limit_val_batches=0)
    found = events(tmp_path)
    best, worst = (
        found.Tensors(f"episode/{place}/text_summary")[0].tensor_proto.string_val[0].decode() for place in (1, 2)
    )
    assert best.startswith("    echo · success · reward 10.00")
    assert "> You see a desk." in best
    assert "▁" in best
    assert "█" in best
    assert worst.startswith("    echo · no success")


def test_an_evaluation_has_a_file_of_its_own_made_anew(tmp_path: Path, make_policy: Callable[..., Any]) -> None:
    for _ in range(2):
        trainer, module, data = scripted(tmp_path, make_policy(), [EpisodeLog()], logger=False)
        trainer.validate(module, data, verbose=False)
        trainer.test(module, data, verbose=False)
        trainer.predict(module, data)  # PredictionFile's
    names = {path.name: lines(path) for path in tmp_path.glob("*.jsonl")}
    assert sorted(names) == ["episodes.test.jsonl", "episodes.validate.jsonl"]
    for name, split in ("validate", "validation"), ("test", "test"):
        assert [line["split"] for line in names[f"episodes.{name}.jsonl"]] == [split] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_every": 0}, r"trainer\.callbacks\.EpisodeLog\.train_every: 0; must be ≥ 1"),
        ({"show": -1}, r"trainer\.callbacks\.EpisodeLog\.show: -1; must be ≥ 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EpisodeLog(**options)
