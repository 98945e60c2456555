"""ReasoningGym: the generated questions of reasoning-gym (more than 100 datasets), one answer each.

A dataset's name is the kind of its tasks. The entry's answer is the reference solution: with
``sdar_pl.skills.hindsight.ReferenceSolution`` as context the teacher reads it, which is on-policy self-distillation as
in OPSD. The package needs no network: pip install 'sdar_pl[reasoning-gym]'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from sdar_pl.checks import between
from sdar_pl.environments.base import Session
from sdar_pl.environments.generated import Generated, package, seed_of
from sdar_pl.environments.global_random import OwnRandom
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

#: split → the hash buckets whose questions it owns: no question can occur in two splits
BUCKETS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
#: entries that are looked through for one task
TRIES = 100
#: datasets whose scorers evaluate the answer as Python
EVALUATE = frozenset((
    *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24"),
    *("simple_integration", "spiral_matrix", "string_insertion"),
))  # fmt: skip


class ReasoningSession(Session):
    """One question and one answer.

    Args:
        question: its text.
        score: answer → its score, from 0 to 1, which is the reward.
        threshold: the score of a success.
    """

    def __init__(self, question: str, score: Callable[[str], float], threshold: float) -> None:
        self.score, self.threshold = score, threshold
        self.last = Observation(question, score=0.0)

    def reset(self) -> Observation:
        return self.last

    def step(self, action: str) -> Observation:
        if self.last.done:
            return replace(self.last, reward=0.0)
        score = self.score(action)
        right = score >= self.threshold
        text = "Right." if right else f"Wrong. The answer's score is {score:.2f}."
        self.last = Observation(text, reward=score, done=True, success=right, score=score)
        return self.last


class ReasoningGym(Generated):
    """Questions of reasoning-gym.

    Args:
        datasets: names of its datasets.
        options: name of a dataset → options of its generator, such as {basic_arithmetic: {max_digits: 2}}.
        threshold: score from which an answer is a success, in (0, 1].
        think: ask for reasoning in <think> tags before the answer, and count an output without them as invalid.
        allow_evaluation: accept datasets whose scorers evaluate the answer as Python: what the policy writes is then
            executed.
        train_tasks: number of tasks in the split "train".
        validation_tasks: number of tasks in the split "validation".
        test_tasks: number of tasks in the split "test".
        seed: of the generators; another seed makes other questions. It does not follow ``seed_everything``.

    Raises ``UserError`` for an unknown dataset, bad options and a dataset that evaluates answers.
    """

    def __init__(
        self,
        datasets: Sequence[str] = ("basic_arithmetic", "chain_sum", "count_bits", "lcm"),
        options: dict[str, dict[str, Any]] | None = None,
        threshold: float = 1.0,
        think: bool = False,
        allow_evaluation: bool = False,
        train_tasks: int = 10_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(datasets, train_tasks, validation_tasks, test_tasks, seed)
        self.threshold = between("data.environment.threshold", threshold, 0, 1, ends="(]")
        self.package = package("reasoning_gym", "reasoning-gym", "ReasoningGym")
        self.options, self.think = options or {}, think
        reason = "First reason step by step inside <think></think>, then give" if think else "Give"
        self.instructions = f"{reason} the final answer, and nothing else, inside <answer></answer>."
        self._made: dict[tuple[str, str], Any] = {}  # (dataset, split) → its generator
        known = self.package.factory.DATASETS
        if not self.kinds:
            raise UserError("data.environment.datasets: []; name one of reasoning-gym's datasets")
        for name in (*self.kinds, *self.options):
            if name not in known or name == "composite":
                raise UserError(f"data.environment.datasets: {name!r}; reasoning-gym has no such dataset")
        if evaluated := [name for name in self.kinds if name in EVALUATE and not allow_evaluation]:
            raise UserError(
                f"data.environment.datasets: {evaluated[0]} executes the policy's answers as Python; leave it out, or "
                "set data.environment.allow_evaluation to true"
            )
        for name in self.kinds:
            self._generator(name, "validation")

    def task(self, split: str, index: int) -> Task:
        name = self.kinds[index % len(self.kinds)]
        for attempt in range(TRIES):
            number = index // len(self.kinds) * TRIES + attempt
            question = self.entry(name, split, number)["question"]
            if crc32(question.encode()) % 10 in BUCKETS[split]:
                data = {"dataset": name, "split": split, "number": number}
                return Task(f"{name}/{split}/{index}", name, question, data)
        raise UserError(
            f"data.environment.datasets: {name} has too few different questions for three splits; leave it out, or "
            "widen it in data.environment.options"
        )

    def entry(self, dataset: str, split: str, number: int) -> Mapping[str, Any]:
        """Question, answer and metadata of one entry of a split's generator."""
        generator = self._generator(dataset, split)
        with OwnRandom(0).active():  # some generators seed the global one
            entry: Mapping[str, Any] = generator[number]
        return entry

    def session(self, task: Task) -> ReasoningSession:
        return ReasoningSession(task.text, self._scorer(task), self.threshold)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The entry's answer; empty for the few datasets that have none."""
        answer = self.entry(**task.data)["answer"]
        return (answer,) if isinstance(answer, str) and self._scorer(task)(answer) >= self.threshold else ()

    def parse(self, text: str) -> tuple[str, bool]:
        """The last ``<answer>…</answer>``; without it the whole text, invalid."""
        before, opened, rest = text.rpartition("<answer>")
        answer, closed, _ = rest.partition("</answer>")
        if not (opened and closed):
            return text.strip(), False
        return answer.strip(), not self.think or ("<think>" in before and "</think>" in before)

    def _scorer(self, task: Task) -> Callable[[str], float]:
        entry, generator = self.entry(**task.data), self._generator(task.data["dataset"], task.data["split"])
        longest = 1000 + 10 * len(str(entry["answer"]))

        def score(answer: str) -> float:
            if len(answer) > longest:
                return 0.0
            try:
                with OwnRandom(0).active():
                    value = float(generator.score_answer(answer=answer, entry=entry))
            except Exception:  # a scorer may raise at an answer that it cannot read
                return 0.0
            return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0

        return score

    def _generator(self, name: str, split: str) -> Any:
        if (name, split) not in self._made:
            size = TRIES * -(-self.numbers[split] // len(self.kinds))
            options = {"size": size, "seed": seed_of(name, split, self.seed), **self.options.get(name, {})}
            try:
                with OwnRandom(0).active():
                    made = self.package.create_dataset(name, **options)
            except Exception as error:
                raise UserError(f"data.environment.options: {name}: {type(error).__name__}: {error}") from error
            self._made[name, split] = made
        return self._made[name, split]
