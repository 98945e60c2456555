"""Demonstrations: episodes to imitate, and the weight of each of their tokens in the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sdar_pl.batch import Row, rows_of
from sdar_pl.environments.base import Environment
from sdar_pl.prompts import Prompter
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.types import Episode

#: number of the turn that a prompt's tokens have in a row
PROMPT = -1


@dataclass
class Demonstration:
    """One episode to imitate.

    Args:
        episode: its prompts are those of a rollout, its responses the tokens to learn.
        learnt_from: number of the first turn, from 0, whose response is learnt; those before it are context.
    """

    episode: Episode
    learnt_from: int = 0

    def rows(self, index: int, history: str, prompt_weight: float) -> list[Row]:
        """The episode's rows, as of a rollout. ``Row.advantages`` holds the weight of each token in the loss: 1 for a
        response, ``prompt_weight`` for a prompt. Tokens without weight have no position, rows without one are left out.

        Args:
            index: of the episode in the rank's episodes.
            history: "conversation" or "windowed".
            prompt_weight: ≥ 0.
        """
        rows = []
        for row in rows_of(self.episode, index, history):
            weights, turns = [prompt_weight] * len(row.tokens), [PROMPT] * len(row.tokens)
            for position, turn in zip(row.positions, row.turns, strict=True):
                weights[position], turns[position] = float(turn >= self.learnt_from), turn
            learnt = [position for position in range(1, len(row.tokens)) if weights[position] > 0]
            if learnt:
                chosen = [weights[position] for position in learnt]
                numbers, blank = [turns[position] for position in learnt], [0.0] * len(learnt)
                rows.append(Row(index, row.group, row.tokens, learnt, numbers, blank, advantages=chosen))
        return rows


class Demonstrations(ABC):
    """A source of demonstrations. A demonstration depends on (seed, epoch, group) alone: a resumed run has the same."""

    def bind(  # noqa: B027 - not every source needs one
        self,
        prompter: Prompter,
        environment: Environment | None,
        split: str,
        context: ContextProvider,
        max_turns: int,
    ) -> None:
        """Receive the parts of the run before the first ``draw``. Raises ``UserError`` for what cannot be imitated.

        Args:
            prompter: makes the tokens; it has a tokenizer.
            environment: of the run; None where it has none.
            split: the environment's split to train on.
            context: the privileged context, which some demonstrations may show.
            max_turns: limit of an episode.
        """

    @abstractmethod
    def draw(self, groups: Sequence[int], count: int, epoch: int, seed: int) -> Iterator[Demonstration]:
        """The demonstrations of an iteration, one for each of ``groups``, in their order.

        Args:
            groups: this rank's, out of ``range(count)``.
            count: demonstrations of the iteration on all ranks.
            epoch: number of the iteration, from 0.
            seed: of the run.
        """

    def refuse_longer_than(self, limit: int) -> None:  # noqa: B027 - not every source knows
        """Raises ``UserError`` for a demonstration that is known to have more than ``limit`` tokens."""

    def settings(self) -> dict[str, Any]:
        """What a resumed run must share, by key in YAML (runtime/run_fingerprint.py)."""
        return {"data.demonstrations": type(self).__name__}
