"""``python -m sdar_pl play --config file.yaml``: one episode in the terminal, by the policy or by you.

    python -m sdar_pl play --config configs/quickstart.yaml
    python -m sdar_pl play --config runs/quickstart/config.yaml --ckpt_path runs/quickstart/checkpoints/best.ckpt
    python -m sdar_pl play --config configs/quickstart.yaml --human

The task is one of ``data.validation_split``. ``seed_everything`` draws it where ``--task`` is not given, and seeds the
episode. The policy samples as in a validation (``data.evaluation``). The gap is that of training: the teacher's
log-prob minus the student's at ``data.sampling.temperature``. A context that is made of finished episodes is read when
the episode has ended; its responses are then shown again. One process, one device; nothing is written.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from sdar_pl.batch import Row, rows_of
from sdar_pl.commands.lightning_cli import CommandLine, launch
from sdar_pl.commands.play_yourself import choose_task, play_yourself
from sdar_pl.datamodule import RolloutDataModule
from sdar_pl.module import SDARModule
from sdar_pl.reports.transcript import Transcript
from sdar_pl.rollout import play
from sdar_pl.runtime.checkpoint_files import SafeCheckpointIO, read_checkpoint
from sdar_pl.runtime.config_files import add_places
from sdar_pl.runtime.processes import GUARD
from sdar_pl.runtime.run_folder import checkpoint_path, run_folder
from sdar_pl.sampling.contexts import add_hindsight_contexts
from sdar_pl.sampling.slots import EpisodeSlot
from sdar_pl.sampling.tasks import EVALUATE
from sdar_pl.scoring import set_old_logprobs, set_teacher_logprobs
from sdar_pl.teachers import Current
from sdar_pl.types import Episode, Task


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    with GUARD.active(), add_places(arguments):
        launch(
            PlayCommandLine,
            SDARModule,
            WatchedTask,
            arguments,
            prog="python -m sdar_pl play",
            description="One episode in the terminal, its tokens coloured by the teacher's gap; or play it yourself.",
            subcommands=False,
        )
    return 0


class PlayCommandLine(CommandLine):
    """Parses what ``validate`` would, and shows one episode instead of playing a panel."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help='Checkpoint: a file, "last" or "best".')
        parser.add_argument("--human", action="store_true", help="You play; no model is loaded.")
        parser.add_argument("--skills", action="store_true", help="Let the player read the privileged context.")
        parser.add_argument("--kind", type=str | None, default=None, help="Kind of the task (Task.kind).")
        parser.add_argument(
            "--task", type=int | None, default=None, help="Number of the task in the split, or of its kind, from 0."
        )

    def instantiate_classes(self) -> None:
        config, console = self.config, Console(highlight=False, soft_wrap=True, file=sys.stdout)
        if config.human:
            play_yourself(config, console)
            return
        checkpoint = named_checkpoint(config)
        config.data.evaluate_with_context = config.data.evaluate_with_context or config.skills
        super().instantiate_classes()
        data, split = self.datamodule, config.data.validation_split
        data.console = console
        data.chosen = choose_task(data.environment, split, config.kind, config.task, data.seed)
        if checkpoint:
            data.teacher.load_state_dict(read_checkpoint(Path(checkpoint))["teacher"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # none is needed here
            self.trainer.validate(self.model, data, ckpt_path=checkpoint, verbose=False)

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """One device, the configuration's precision, and nothing that writes."""
        settings = self.config.trainer
        return L.Trainer(
            accelerator="cpu" if settings.accelerator == "cpu" else "auto",
            devices=1,
            precision=settings.precision,
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
        )


def named_checkpoint(config: Any) -> str | None:
    """The file that ``ckpt_path`` means. Raises ``UserError`` for one that is not valid."""
    wanted = config.ckpt_path
    if wanted is None:
        return None
    with ExitStack() as until_end:
        of_a_run = wanted in ("last", "best")
        return checkpoint_path(run_folder(config, wanted, until_end, False) if of_a_run else Path(), wanted)


class WatchedTask(RolloutDataModule):
    """A panel of one task, shown while it is played."""

    console: Console
    chosen: tuple[int, Task]  # its number in the split, and the task

    def panel(self, stage: str) -> list[Task]:
        return [self.chosen[1]]

    def panel_share(self, stage: str) -> list[tuple[int, Task]]:
        return [self.chosen]

    def evaluate(self, numbered: Sequence[tuple[int, Task]], as_teacher: bool = False) -> list[Episode]:
        """Play and show the task."""
        ((number, task),) = numbered
        context = self.context.provide(task)
        slot = EpisodeSlot(task, 0, 0, 0, (self.seed, EVALUATE, number), context=context)
        slot.student_context = context if self.evaluate_with_context else ""
        transcript = Transcript(self.console, self._decode, self._last_gaps)
        self._announce(transcript, number, slot)
        self.teacher.begin(self.policy)
        with self.policy.whole():
            self.engine.sync(self.policy)
            with self.console.status("playing"):
                (episode,) = play(
                    *(self.environment, [slot], self.engine, self.prompter, self.evaluation_sampling, self.rules),
                    watch=transcript,
                )
                add_hindsight_contexts(self.context, self.prompter, self.environment, [episode])
                if episode.context != context:
                    self._show_again(transcript, episode)
        transcript.outcome(episode)
        return [episode]

    # ------------------------------------------------------------------ what is shown

    def _announce(self, transcript: Transcript, number: int, slot: EpisodeSlot) -> None:
        transcript.line("task", f"{number} ({slot.task.id}), {slot.task.kind}: {slot.task.text}")
        reads = ", reads the privileged context" if slot.student_context else ""
        temperature = f"temperature {self.evaluation_sampling.temperature:g}"
        transcript.line("student", f"{self.policy.source.name}, {temperature}{reads}")
        transcript.line("teacher", f"{type(self.teacher).__name__}{', reads:' if slot.context else ''}")
        if slot.context:
            transcript.observation(slot.context)
        transcript.legend()

    def _show_again(self, transcript: Transcript, episode: Episode) -> None:
        transcript.line("hindsight", "the teacher reads the finished episode:")
        transcript.observation(episode.context)
        gaps = self._gaps(rows_of(episode, 0, self.prompter.history))
        for number, turn in enumerate(episode.turns):
            transcript.response(number + 1, turn, gaps[number])

    def _decode(self, tokens: list[int]) -> str:
        return str(self.policy.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # ------------------------------------------------------------------ gaps

    def _last_gaps(self, episode: Episode) -> list[float] | None:
        """Δ of each token of the last response; None where the teacher's weights and prompt are the student's."""
        row = rows_of(episode, 0, self.prompter.history)[-1]
        if not row.teacher_tokens and isinstance(self.teacher, Current):
            return None
        return self._gaps([row])[len(episode.turns) - 1]

    def _gaps(self, rows: Sequence[Row]) -> dict[int, list[float]]:
        """Number of each turn in the rows → Δ of its response's tokens."""
        temperature, budget = self.sampling.temperature, self.budget
        set_old_logprobs(rows, self.policy, temperature, budget)
        set_teacher_logprobs(rows, self.policy, self.teacher, temperature, budget)
        gaps: dict[int, list[float]] = {}
        for row in rows:
            assert row.old_logprobs is not None
            assert row.teacher_logprobs is not None
            for turn, student, teacher in zip(row.turns, row.old_logprobs, row.teacher_logprobs, strict=True):
                gaps.setdefault(turn, []).append(teacher - student)
        return gaps
