"""Verifiers: the tasks of a taskset of verifiers (0.4) that are one question and one reply.

verifiers lets a harness of its own drive the model. A task without a harness is its data and its rewards, and a reward
is a function of the recorded trace: here the trace of a question and a reply that this package's rollout has sampled.
Left out: tasks that need tools, a container or a judge, and environments whose ``run`` leads the conversation.
pip install 'sdar_pl[verifiers]' (Python 3.11 or newer).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

from sdar_pl.checks import positive
from sdar_pl.environments.base import Session
from sdar_pl.environments.generated import Generated, package
from sdar_pl.environments.global_random import OwnRandom
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

KEY = "data.environment.taskset"


class VerifiersSession(Session):
    """One question and one reply.

    Args:
        question: its text.
        score: reply → the weighted sum of the task's rewards.
        threshold: the reward of a success.
    """

    def __init__(self, question: str, score: Callable[[str], float], threshold: float) -> None:
        self.score, self.threshold = score, threshold
        self.last = Observation(question)

    def reset(self) -> Observation:
        return self.last

    def step(self, action: str) -> Observation:
        if self.last.done:
            return replace(self.last, reward=0.0)
        reward = self.score(action)
        text = f"The reward is {reward:g}."
        self.last = Observation(text, reward=reward, done=True, success=reward >= self.threshold)
        return self.last


class Verifiers(Generated):
    """Tasks of a taskset of verifiers, one question and one reply each.

    A finite taskset is shuffled. Its first tasks are the split "test", the next ones "validation", and the rest, as far
    as it goes, "train".

    Args:
        taskset: path of the class, as module.Class; its last part is the kind of the tasks.
        arguments: fields of the taskset's configuration.
        answer: field of a task's data with a right reply, which ``ReferenceSolution`` shows to the teacher; null: none.
        instructions: stands after every question.
        threshold: reward from which a reply is a success, > 0.
        train_tasks: greatest number of tasks in the split "train".
        validation_tasks: number of tasks in the split "validation".
        test_tasks: number of tasks in the split "test".
        seed: of the shuffle. It does not follow ``seed_everything``.

    Raises ``UserError`` for a taskset that cannot be imported or is too small, and for one that this rollout cannot
    play: with what it needs.
    """

    def __init__(
        self,
        taskset: str,
        arguments: dict[str, Any] | None = None,
        answer: str | None = None,
        instructions: str = "Reply with the answer.",
        threshold: float = 1.0,
        train_tasks: int = 10_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        seed: int = 0,
    ) -> None:
        module, _, name = taskset.rpartition(".")
        super().__init__((name,), train_tasks, validation_tasks, test_tasks, seed)
        self.threshold = positive("data.environment.threshold", threshold)
        self.answer, self.instructions = answer, instructions
        self.package = package("verifiers.v1", "verifiers", "Verifiers")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{KEY}: {taskset!r} cannot be imported ({error}); name a class as module.Class") from error
        if not (inspect.isclass(found) and issubclass(found, self.package.Taskset)):
            raise UserError(f"{KEY}: {taskset!r} is no taskset of verifiers; name a class as module.Class")
        self._rows = self._load(found, arguments or {})

    def task(self, split: str, index: int) -> Task:
        row = self._rows[split][index]
        words = [row.data.system_prompt, row.data.prompt_text]
        return Task(f"{split}/{index}", self.kinds[0], "\n\n".join(filter(None, words)), {"split": split, "row": index})

    def session(self, task: Task) -> VerifiersSession:
        return VerifiersSession(task.text, lambda reply: self._score(task, reply), self.threshold)

    def expert_plan(self, task: Task) -> tuple[str, ...]:
        """The field ``answer`` of the task's data, where that reply is a success."""
        answer = str(getattr(self._row(task).data, self.answer)) if self.answer else ""
        return (answer,) if answer and self._score(task, answer) >= self.threshold else ()

    @property
    def knows_solutions(self) -> bool:
        return self.answer is not None

    def parse(self, text: str) -> tuple[str, bool]:
        """What follows the reasoning; valid unless that is empty. The task's rewards read it as they like."""
        reply = text.rpartition("</think>")[2].strip()
        return reply, bool(reply)

    def _row(self, task: Task) -> Any:
        return self._rows[task.data["split"]][task.data["row"]]

    def _score(self, task: Task, reply: str) -> float:
        """The rewards of a trace that holds the question and the reply."""
        row, vf = self._row(task), self.package
        question = vf.MessageNode(message=vf.UserMessage(content=row.data.prompt_text))
        answer = vf.MessageNode(parent=0, sampled=True, message=vf.AssistantMessage(content=reply))
        trace = vf.Trace(
            task=vf.TraceTask(type=type(row).__name__, data=row.data, key=row.key, hash=row.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            nodes=[question, answer],
        )
        with ThreadPoolExecutor(1) as pool:  # a notebook has an event loop of its own in this thread
            pool.submit(asyncio.run, row.score(trace)).result()
        return float(trace.reward)

    def _load(self, taskset: Any, arguments: dict[str, Any]) -> dict[str, list[Any]]:
        """Split → its tasks."""
        generic = importlib.import_module("verifiers.v1.utils.generic")
        config = generic.concrete_type(taskset, self.package.TasksetConfig) or self.package.TasksetConfig
        try:
            with OwnRandom(self.seed).active():
                made = taskset(config(**arguments))
                rows = list(islice(made.shuffle(self.seed) if made.bounded else made, sum(self.numbers.values())))
        except Exception as error:  # the taskset's own code: files, packages and a network that it may need
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{KEY}: {self.kinds[0]} cannot be loaded ({words}); see data.environment.arguments"
            ) from error
        test, held = self.numbers["test"], self.numbers["test"] + self.numbers["validation"]
        if len(rows) <= held:
            raise UserError(
                f"{KEY}: {self.kinds[0]} has {len(rows)} tasks; lower data.environment.validation_tasks and test_tasks "
                f"({held} in all) to leave some to train on"
            )
        for row in rows:
            for need in self._needs(row):
                raise UserError(f"{KEY}: {self.kinds[0]} needs {need}; choose tasks of one question and one reply")
        if self.answer is not None and not hasattr(rows[0].data, self.answer):
            raise UserError(f"data.environment.answer: the tasks of {self.kinds[0]} have no field {self.answer!r}")
        self.numbers["train"] = len(rows) - held
        return {"test": rows[:test], "validation": rows[test:held], "train": rows[held:]}

    def _needs(self, row: Any) -> Iterator[str]:
        """What this rollout cannot give to a task."""
        base, rewards = self.package.Task, row.hooks("reward")
        if not isinstance(row.data.prompt, str):
            yield "an environment that opens the conversation, or prompts of several messages"
        if row.NEEDS_CONTAINER or any(getattr(type(row), n) is not getattr(base, n) for n in ("setup", "finalize")):
            yield "a runtime of verifiers"
        if row.toolsets(row.config):
            yield "tools"
        if row.config.judges:
            yield "a judge"
        if any("runtime" in inspect.signature(reward).parameters for reward in rewards):
            yield "a runtime of verifiers for its rewards"
        if not rewards:
            yield "rewards that its environment records"
