"""EpisodeLog: every episode as a line of ``episodes.jsonl``, and in the loggers that can show it.

Training goes to ``episodes.jsonl`` in the run folder (``episodes.rank1.jsonl`` … for the other ranks), one JSON object
a line: iteration, split ("train", "validation", "test"), task, kind, text, group, index, success, reward, penalty,
failed, overflow, context (what the teacher read), first (observation) and turns. A turn has text, action, valid,
observation, reward, tokens (the response's ids), logprobs (the engine's) and, if it was trained on, advantage and the
objective's records of each token (gap, gate, weight). Of a text over ``MOST`` characters the beginning is kept, with a
note of its length. A run of ``validate`` or ``test`` writes ``episodes.validate.jsonl`` or ``episodes.test.jsonl``,
anew each time: the record of the training stays as it is. The episodes of ``predict`` are PredictionFile's.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from sdar_pl.batch import Batch
from sdar_pl.callbacks.episode_tables import log_table, loggers_with_tables
from sdar_pl.callbacks.trainer_access import data_of, events_of, iteration_of, number_of
from sdar_pl.checks import at_least
from sdar_pl.runtime.files import replacing, writing
from sdar_pl.runtime.words import cut, shown
from sdar_pl.types import Episode, Turn

#: (episode, turn) → name of a record → its values, one for each response token
Records = dict[tuple[int, int], dict[str, list[float]]]
#: which of the objective's records are kept
RECORDS = ("gap", "gate", "weight")
LEVELS = "▁▂▃▄▅▆▇█"
#: characters of a text in episodes.jsonl, and of one in TensorBoard
MOST, MOST_SHOWN = 100_000, 4_000


class EpisodeLog(L.Callback):
    """Writes episodes to ``episodes.jsonl``, shows some in TensorBoard, and the iteration's as a table where a logger
    can.

    Args:
        train_every: write the training episodes of every n-th iteration, n ≥ 1. Evaluations are always written.
        show: number of training episodes shown in TensorBoard at each of these iterations, spread from the highest
            reward to the lowest; ≥ 0.
    """

    def __init__(self, train_every: int = 1, show: int = 2) -> None:
        self.train_every = at_least("trainer.callbacks.EpisodeLog.train_every", train_every, 1)
        self.show = at_least("trainer.callbacks.EpisodeLog.show", show, 0)
        self.path = Path("episodes.jsonl")
        self.records: Records = {}
        self.begun = False  # whether the file holds episodes of this run

    # ------------------------------------------------------------------ the file

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        parts = ["episodes", *([] if stage == "fit" else [stage])]
        parts += [f"rank{trainer.global_rank}"] if trainer.global_rank else []
        self.path = Path(trainer.default_root_dir, ".".join([*parts, "jsonl"]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if stage in ("validate", "test"):
            self.path.unlink(missing_ok=True)
        self.begun = False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.begun = True  # a resumed run appends to its file

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.begun:
            self.path.unlink(missing_ok=True)
        self.begun = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_sanity_check_start(trainer, pl_module)  # if there was no sanity check
        forget_after(self.path, trainer.current_epoch)

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with writing(self.path, "a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)

    # ------------------------------------------------------------------ training

    def _due(self, trainer: L.Trainer) -> bool:
        return number_of(trainer) % self.train_every == 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.records = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._due(trainer):
            collect(self.records, batch, outputs["tokens"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._due(trainer):
            return
        iteration, number = iteration_of(trainer), number_of(trainer)
        episodes = iteration.episodes
        rows = [row_of(episode, number, "train", i, self.records) for i, episode in enumerate(episodes)]
        left_out = [*iteration.dropped, *iteration.failed]
        self._append([*rows, *(row_of(episode, number, "train") for episode in left_out)])
        self._show(trainer, episodes, number)
        self.records = {}

    def _show(self, trainer: L.Trainer, episodes: Sequence[Episode], number: int) -> None:
        """Give some episodes as text to TensorBoard, and all to loggers with tables."""
        decode = data_of(trainer).prompter.tokenizer.decode
        events, tables = events_of(trainer), loggers_with_tables(trainer)
        if events is not None:
            ranked = sorted(range(len(episodes)), key=lambda i: -episodes[i].reward)
            for place in range(min(self.show, len(ranked))):
                i = ranked[place * (len(ranked) - 1) // max(1, self.show - 1)]
                events.add_text(f"episode/{place + 1}", rendered(episodes[i], i, self.records, decode), number)
        if tables and episodes:
            rows = [
                (number, *in_table(episode, i, self.records), rendered(episode, i, self.records, decode))
                for i, episode in enumerate(episodes)
            ]
            for logger in tables:
                log_table(logger, rows, number)

    # ------------------------------------------------------------------ evaluation

    def _evaluated(self, trainer: L.Trainer, split: str, outputs: Any) -> None:
        self._append(row_of(episode, number_of(trainer), split) for episode in outputs)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._evaluated(trainer, "validation", outputs)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._evaluated(trainer, "test", outputs)


# ---------------------------------------------------------------------- rows


def forget_after(path: Path, iteration: int) -> None:
    """Drop the lines of iterations after ``iteration``, which a resumed run repeats, and warn of damaged ones."""
    if not path.exists():
        return
    damaged = 0
    with replacing(path) as partial, path.open("rb") as old, partial.open("wb") as new:
        for line in old:
            number = re.match(rb'{"iteration": (\d+), ', line)  # row_of writes it first: no need to parse the line
            if not number or not line.endswith(b"}\n") or b"\0" in line:
                damaged += 1
            elif int(number[1]) <= iteration:
                new.write(line)
    if damaged:
        warnings.warn(f"{path}: {damaged} damaged lines are left out", stacklevel=2)


def collect(records: Records, batch: Batch, tokens: Mapping[str, Tensor]) -> None:
    """Sort a micro-batch's records [B, R] by episode and turn."""
    inside = batch.mask > 0
    keys = [(int(e), int(t)) for e, t in _flat(inside, batch.episodes[:, None].expand_as(batch.mask), batch.turns)]
    for name, values in {"advantage": batch.advantages, **{n: tokens[n] for n in RECORDS if n in tokens}}.items():
        for key, (value,) in zip(keys, _flat(inside, values), strict=True):
            records.setdefault(key, {}).setdefault(name, []).append(value)


def _flat(inside: Tensor, *tensors: Tensor) -> list[tuple[float, ...]]:
    return list(zip(*(tensor[inside].tolist() for tensor in tensors), strict=True))


def rounded(values: Sequence[float]) -> list[float | None]:
    """Values with four decimals; NaN and infinities, which JSON lacks, become None."""
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]


def row_of(
    episode: Episode, iteration: int, split: str, number: int = -1, records: Records | None = None
) -> dict[str, Any]:
    """An episode as a JSON object; ``number`` is its index in ``records``."""

    def turn_of(i: int, turn: Turn) -> dict[str, Any]:
        of_turn = dict((records or {}).get((number, i), {}))
        advantage = of_turn.pop("advantage", None)
        return {
            "text": cut(turn.text, MOST),
            "action": cut(turn.action, MOST),
            "valid": turn.valid,
            "observation": cut(turn.observation.text, MOST),
            "reward": turn.reward,
            "tokens": turn.response,
            "logprobs": rounded(turn.logprobs),
            **({"advantage": rounded([sum(advantage) / len(advantage)])[0]} if advantage else {}),
            **{name: rounded(values) for name, values in of_turn.items()},
        }

    return {
        "iteration": iteration,  # first: see forget_after
        "split": split,
        "task": cut(episode.task.id, MOST),
        "kind": cut(episode.task.kind, MOST),
        "text": cut(episode.task.text, MOST),
        "group": episode.group,
        "index": episode.index,
        "success": episode.success,
        "reward": episode.reward,
        "score": episode.score,
        "parts": episode.parts,
        "penalty": episode.penalty,
        "failed": cut(episode.failed, MOST),
        "overflow": episode.overflow,
        "context": cut(episode.context, MOST),
        "first": cut(episode.first.text, MOST),
        "turns": [turn_of(i, turn) for i, turn in enumerate(episode.turns)],
    }


def in_table(episode: Episode, number: int, records: Records) -> tuple[Any, ...]:
    """Cells of an episode in a table, between iteration and text: task, kind, success, reward, turns and mean gap."""
    gaps = [gap for i in range(len(episode.turns)) for gap in records.get((number, i), {}).get("gap", [])]
    gap = rounded([sum(gaps) / len(gaps)])[0] if gaps else None
    task = episode.task
    return shown(task.id, 200), shown(task.kind, 80), episode.success, episode.reward, len(episode.turns), gap


def level(gate: float) -> str:
    """The mark of a gate; "?" for one that is not finite."""
    return LEVELS[min(7, max(0, int(gate * 8)))] if math.isfinite(gate) else "?"


def rendered(episode: Episode, number: int, records: Records, decode: Any) -> str:
    """An episode as Markdown: observations, and the responses with each token's gate behind it, from ▁ (0) to █ (1).

    All of it is one indented block of code, so that no text of a model or an environment is read as Markdown: it can
    neither end the block nor show an image.
    """
    outcome = "success" if episode.success else "no success"
    kind = shown(episode.task.kind, 80)
    lines = [f"{kind} · {outcome} · reward {episode.reward:.2f} · gate ▁ 0 … █ 1", "", *quoted(episode.first.text)]
    for i, turn in enumerate(episode.turns):
        gates = records.get((number, i), {}).get("gate")
        marks = [level(gate) for gate in gates or []] or [""] * len(turn.response)
        response = "".join(decode([token]) + mark for token, mark in zip(turn.response, marks, strict=True))
        first, *more = lines_of(response.strip())
        lines += ["", f"{i + 1}. {first}", *(f"   {line}" for line in more), *quoted(turn.observation.text)]
    return "\n".join(f"    {line}" for line in lines)


def lines_of(text: str) -> list[str]:
    """The lines of a text's beginning, control characters escaped; at least one."""
    return [shown(line, MOST_SHOWN) for line in cut(text, MOST_SHOWN).splitlines()] or [""]


def quoted(text: str) -> list[str]:
    return [f"> {line}" for line in lines_of(text)]
