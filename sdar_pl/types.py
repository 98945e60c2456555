"""The glossary as code: Message, Task, Skill, Observation, Turn, Episode.

Standard library only, so that environments and skills import no torch. Left out: tensors (batch.py), chat templates
(prompts.py) and sampling (engines/). docs/glossary.md has all words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True)
class Task:
    """One thing to do in an environment.

    Args:
        id: unique name within the environment.
        kind: explicit category. Skills are retrieved by the kind and never by guessing from a prompt.
        text: the goal in words.
        data: the environment's own payload (a random seed, a path); ignored in comparisons.

    Example:
        Task(id="train/17", kind="heat", text="put a hot mug in the cupboard.", data=17)
    """

    id: str
    kind: str
    text: str
    data: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Skill:
    """One piece of privileged advice.

    Args:
        name: the name by which retrievers and logs refer to the skill.
        description: one line for retrievers that match words.
        kinds: the kinds of task that the skill helps. Empty: a general skill, for every task.
        text: the advice itself, as the teacher reads it.
    """

    name: str
    description: str
    kinds: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Observation:
    """A session's answer to ``reset`` or to an action.

    Args:
        text: exactly the environment's feedback.
        admissible: the commands that the environment would understand now. Empty where it keeps no such list.
        reward: the reward of the action just taken.
        done: whether the session has ended.
        success: whether the task is fulfilled.
        score: how well the task is fulfilled so far, from 0 to 1. None where the environment has no such measure.

    Example:
        Observation("You open the fridge 1.", admissible=("look", "go to shelf 1"))
    """

    text: str
    admissible: tuple[str, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool = False
    score: float | None = None


@dataclass
class Turn:
    """One prompt–response exchange in tokens. The sampled tokens are the tokens trained on.

    Args:
        prompt: the student's prompt tokens that are *new* in this turn: the whole prompt in ``windowed`` history,
            in ``conversation`` history only the tokens that follow the previous response.
        response: the sampled tokens, the end token included if one was sampled.
        logprobs: the engine's log-prob of each response token.
        text: the response, decoded without special tokens.
        action: the action that the environment parsed from ``text``.
        valid: whether ``text`` kept the format.
        observation: the environment's answer to ``action``.
        penalty: what an invalid response costs this turn, 0 for a valid one; not part of ``reward``.
        teacher_prompt: the teacher's new prompt tokens. None: the same as ``prompt``, because there is no privileged
            context, or because the conversation's first turn holds it already.
        stage: number of the turn's stage, where ``data.rewards`` divides episodes into stages.
        likely: [R, k, 2] float32, number and log-prob of the engine's k likeliest tokens at each response token. None:
            nothing reads them (``Engine.likely``).

    Example:
        A conversation whose teacher reads a skill, S0 being its tokens and E the end token::

            Turn(prompt=[P0, P1],     response=[R0, E], logprobs=[-0.1, -0.2], teacher_prompt=[S0, P0, P1], ...)
            Turn(prompt=[O0, O1, O2], response=[R1, E], logprobs=[-0.3, -0.1], teacher_prompt=None, ...)
    """

    prompt: list[int]
    response: list[int]
    logprobs: list[float]
    text: str
    action: str
    valid: bool
    observation: Observation
    teacher_prompt: list[int] | None = None
    penalty: float = 0.0
    stage: int = 0
    likely: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def reward(self) -> float:
        """The environment's reward for this turn's action."""
        return self.observation.reward


@dataclass
class Episode:
    """One finished play of a task by the policy.

    Args:
        task: the task played.
        group: number of the group; the episodes of one task form a group.
        index: number of the episode within its group.
        first: the observation that ``reset`` returned.
        turns: the exchanges, in order.
        context: the privileged context, which only the teacher reads.
        student_context: the context shown to the student as well (Skill-GRPO, measuring the teacher).
        failed: the last error of a session that failed too often; empty for an episode that counts.
        overflow: whether the episode ended because the conversation outgrew a prompt limit.
        shaped: the training reward, where ``data.rewards`` gives one. None: the environment's.
        parts: what ``shaped`` is made of, by name.

    Example:
        The second of the episodes of group 3, which wins in two turns::

            Episode(task, group=3, index=1, first=Observation("You are in the kitchen."), turns=[turn_0, turn_1])
    """

    task: Task
    group: int
    index: int
    first: Observation
    turns: list[Turn] = field(default_factory=list)
    context: str = ""
    student_context: str = ""
    failed: str = ""
    overflow: bool = False
    shaped: float | None = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether the last observation reports success."""
        return bool(self.turns) and self.turns[-1].observation.success

    @property
    def score(self) -> float | None:
        """The score of the last observation; None where the environment has no such measure."""
        return self.turns[-1].observation.score if self.turns else None

    @property
    def reward(self) -> float:
        """Sum of the environment's rewards, without penalties."""
        return sum(turn.reward for turn in self.turns)

    @property
    def training_reward(self) -> float:
        """The reward that the advantage compares, without penalties."""
        return self.reward if self.shaped is None else self.shaped

    @property
    def signal(self) -> tuple[float, ...]:
        """The training reward and its parts: a group in which they are all equal has no advantage."""
        return (self.training_reward, *self.parts.values())

    @property
    def penalty(self) -> float:
        """Sum of the turns' penalties for invalid responses."""
        return sum(turn.penalty for turn in self.turns)
