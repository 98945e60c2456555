"""The project's words as plain data: Task, Skill, Message, Observation, Turn, Episode.

Standard library only, so that environments and skills import no torch. Left out on purpose:
anything about tensors (batch.py), chat templates (prompts.py) and sampling (engines/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True)
class Task:
    """One thing to do in an environment.

    ``kind`` is explicit metadata: skills are retrieved by it and never by guessing from a prompt.
    ``text`` is the goal in words. ``data`` is the environment's own (a seed, a path).
    """

    id: str
    kind: str
    text: str
    data: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Skill:
    """One piece of privileged advice. ``kinds`` empty means it is general: it helps every task."""

    name: str
    description: str
    kinds: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Observation:
    """What a session answers to ``reset`` or to an action.

    ``text`` is exactly the environment's feedback; ``admissible`` the commands that would be
    understood now (empty where an environment has no such list). ``reward`` belongs to the action
    just taken. ``done`` ends the session; ``success`` says that the task is fulfilled.
    """

    text: str
    admissible: tuple[str, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool = False


@dataclass
class Turn:
    """One prompt–response exchange, in tokens (what was sampled is what is trained on).

    ``prompt`` holds the student's prompt tokens *new* in this turn: the whole prompt in ``windowed``
    history, only what follows the previous response in ``conversation`` history.
    ``teacher_prompt`` is the same with privileged context, empty where there is none.
    """

    prompt: list[int]
    response: list[int]
    logprobs: list[float]
    text: str
    action: str
    valid: bool
    observation: Observation
    teacher_prompt: list[int] = field(default_factory=list)

    @property
    def reward(self) -> float:
        return self.observation.reward


@dataclass
class Episode:
    """One finished play of a task by the policy. ``group`` numbers the episodes of one task."""

    task: Task
    group: int
    index: int
    first: Observation
    turns: list[Turn] = field(default_factory=list)
    context: str = ""  # what only the teacher reads
    student_context: str = ""  # what the student is shown too (Skill-GRPO, measuring the teacher)
    failed: str = ""
    penalty: float = 0.0
    overflow: bool = False  # ended because the conversation outgrew the prompt limit

    @property
    def success(self) -> bool:
        return bool(self.turns) and self.turns[-1].observation.success

    @property
    def reward(self) -> float:
        """Sum of the environment's rewards less the penalties for invalid actions."""
        return sum(turn.reward for turn in self.turns) - self.penalty
