"""KeptRollouts: the rollouts of a checkpoint, and the next iteration's, which ``data.ahead`` plays ahead of time.

Ahead: servers roll out the next iteration while the present one is scored and trained on. It begins with the weights
that the present update begins with, so that its tokens come from the policy of one iteration before. The correction
(objectives/corrections.py) weighs them by the ratio of the two policies as they are: the engine's log-probs are those
of the weights that sampled. A rollout under way ends before anything else uses the engine, and before a checkpoint is
written, which holds it: a resumed run neither loses nor repeats it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sdar_pl.batch import Batch, Row
from sdar_pl.runtime.ranks import gather_to_rank_zero, rank, world
from sdar_pl.sampling.iteration import Iteration, restore
from sdar_pl.types import Task

#: ``Iteration.to_plain`` of every rank
Saved = list[dict[str, Any]]
#: (rows, epoch, whether a group was dropped) → micro-batches and how many make an optimizer step
Pack = Callable[[Sequence[Row], int, bool], tuple[list[Batch], int]]


class KeptRollouts:
    """A checkpoint's rollouts until their epochs begin, and at most one rollout that is played ahead."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._ahead: Iteration | None = None
        self._error: BaseException | None = None
        self._saved: dict[str, Saved | None] = {}
        self.waited_s = 0.0  # seconds that training has waited for rollouts, all in all

    # ------------------------------------------------------------------ ahead

    def begin(self, roll_out: Callable[[], Iteration]) -> None:
        """Roll out in a thread. The rollout before it has been taken."""

        def work() -> None:
            try:
                self._ahead = roll_out()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, daemon=True, name="rollout ahead")
        self._thread.start()

    def wait(self) -> None:
        """Until no rollout is under way."""
        began = time.perf_counter()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)  # with a time-out, so that a signal is handled
        self.waited_s += time.perf_counter() - began

    def take(self, epoch: int, tasks: Mapping[int, Task]) -> Iteration | None:
        """The rollout that was played ahead for this epoch, not scored; None if there is none. Raises what ended it.

        ``tasks``: of this rank's groups; a checkpoint's episodes come without their tasks' ``data``.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        iteration, self._ahead = self._ahead, None
        if saved := self._saved.pop("ahead", None):
            iteration, _ = restore(saved, epoch, rank(), world())
            for episode in [] if iteration is None else [*iteration.episodes, *iteration.failed]:
                episode.task = tasks[episode.group]
        return iteration if iteration is not None and iteration.epoch == epoch else None

    # ------------------------------------------------------------------ checkpoints

    def restored(self, epoch: int, pack: Pack) -> Iteration | None:
        """A checkpoint's scored rollouts, if they are of this epoch; ``pack`` makes micro-batches of their rows."""
        saved = self._saved.pop("iteration", None)
        iteration, rows = restore(saved, epoch, rank(), world()) if saved else (None, [])
        if iteration is not None and not iteration.batches:
            iteration.batches, iteration.accumulate = pack(rows, epoch, bool(iteration.dropped))
        return iteration

    def state_dict(self, iteration: Iteration | None) -> dict[str, Any]:
        """``iteration`` and the rollout ahead, of all ranks, on rank 0; one that failed is left out. Collective."""
        self.wait()
        ahead = self._saved.get("ahead") or _gathered(self._ahead)
        return {"iteration": _gathered(iteration), "ahead": ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rollouts for ``restored`` and ``take``."""
        self._saved = {name: state.get(name) for name in ("iteration", "ahead")}


def _gathered(iteration: Iteration | None) -> Saved | None:
    parts = gather_to_rank_zero(None if iteration is None else iteration.to_plain())
    return None if any(part is None for part in parts) else [part for part in parts if part is not None]
