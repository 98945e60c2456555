"""ScriptedPlay: demonstrations that an environment's own expert and novice play (``Environment.players``).

Three kinds of episodes, by default the first alone:

- the expert's, with the privileged context of the task in its prompt (data.context) where there is one;
- the novice's without context: a policy that imitates them is imperfect without skills, on purpose;
- the novice's with the context of another kind of task, so that it is the *content* that helps.

A policy that has seen all three is a real teacher when it reads the context, and has something to learn from it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from sdar_pl.checks import at_least, between
from sdar_pl.environments.base import Environment
from sdar_pl.errors import UserError
from sdar_pl.prompts import Prompter
from sdar_pl.runtime.run_fingerprint import arguments_of
from sdar_pl.sampling.run_settings import NO_SETTINGS, digest_of_tasks
from sdar_pl.skills.providers import ContextProvider, NoContext
from sdar_pl.types import Episode, Task, Turn
from sdar_pl.warmup.demonstrations import Demonstration, Demonstrations

KEY = "data.demonstrations"


class ScriptedPlay(Demonstrations):
    """Episodes of the environment's expert and novice. What remains of the shares: the novice, wrong context.

    Args:
        expert: share of episodes by the expert, with the right context.
        novice: share of episodes by the novice, without context.
        take_over: in half of the expert's episodes a novice plays up to a turn from 1 to this one, and what the novice
            does is not learnt; 0: experts play from the start.

    Raises ``UserError`` for shares outside of 0 to 1, or over 1 together.
    """

    def __init__(self, expert: float = 1.0, novice: float = 0.0, take_over: int = 0) -> None:
        self.expert = between(f"{KEY}.expert", expert, 0, 1)
        self.novice = between(f"{KEY}.novice", novice, 0, 1)
        if expert + novice > 1 + 1e-9:
            raise UserError(f"{KEY}.novice: {novice:g}, with expert {expert:g} over 1; lower one of them")
        self.take_over = at_least(f"{KEY}.take_over", take_over, 0)
        self.environment: Environment | None = None

    def bind(
        self,
        prompter: Prompter,
        environment: Environment | None,
        split: str,
        context: ContextProvider,
        max_turns: int,
    ) -> None:
        if environment is None:
            raise UserError("data.environment: null; scripted play needs an environment with players")
        if isinstance(context, NoContext) and self.expert + self.novice < 1 - 1e-9:
            raise UserError(f"{KEY}.expert: the shares leave episodes with a wrong context; set data.context, or 1")
        if context.after_play:
            raise UserError("data.context: is made of finished episodes and cannot be shown while one is played")
        self.prompter, self.environment, self.split = prompter, environment, split
        self.context, self.max_turns = context, max_turns
        task = environment.tasks(split)[0]
        environment.response(environment.players(task, random.Random(0))[0].act(environment.session(task).reset()))

    def draw(self, groups: Sequence[int], count: int, epoch: int, seed: int) -> Iterator[Demonstration]:
        for group in groups:
            demonstration = self.play(random.Random(f"{seed}/{epoch}/{group}"), epoch)
            demonstration.episode.group = group
            yield demonstration

    def settings(self) -> dict[str, Any]:
        assert self.environment is not None
        return {
            **arguments_of(self, KEY),
            **arguments_of(self.environment, "data.environment", NO_SETTINGS),
            f"data.environment ({self.split} tasks)": digest_of_tasks(self.environment.tasks(self.split)),
            **arguments_of(self.context, "data.context", NO_SETTINGS),
            "data.play.max_turns": self.max_turns,
        }

    # ------------------------------------------------------------------ one episode

    def pick(self, rng: random.Random, epoch: int) -> tuple[Environment, Task]:
        """The world and the task of an episode. A subclass may choose among several worlds."""
        assert self.environment is not None
        tasks = self.environment.tasks(self.split)
        return self.environment, tasks[rng.randrange(len(tasks))]

    def play(self, rng: random.Random, epoch: int) -> Demonstration:
        """One demonstration, all of it drawn from ``rng``."""
        world, task = self.pick(rng, epoch)
        share = rng.random()
        if share < self.expert:
            late = self.take_over > 0 and rng.random() >= 0.5
            return self.played(
                world, task, rng, rng.randint(1, self.take_over) if late else 0, self.context.provide(task)
            )
        context = ""
        if share >= self.expert + self.novice:
            other = rng.choice([kind for kind in world.kinds if kind != task.kind])
            context = self.context.provide(Task("", other, ""))
        return self.played(world, task, rng, None, context)

    def played(
        self, world: Environment, task: Task, rng: random.Random, expert_from: int | None, context: str
    ) -> Demonstration:
        """An episode that the novice plays up to turn ``expert_from``, the expert from there on.

        Args:
            world: the environment of the task.
            task: the task.
            rng: for both players.
            expert_from: None: the novice plays, and is learnt from, to the end.
            context: shown in the prompt.
        """
        session = world.session(task)
        try:
            observation = session.reset()
            expert, novice = world.players(task, rng)
            episode, tokens = Episode(task, 0, 0, observation, student_context=context), list[int]()
            for number in range(self.max_turns):
                prompt, _ = self.prompter.prompts(world, episode)
                tokens += prompt
                if number and self.prompter.full(tokens, episode):
                    episode.overflow = True
                    break
                wise, naive = expert.act(observation), novice.act(observation)
                text = world.response(naive if expert_from is None or number < expert_from else wise)
                response = self.prompter.response(text)
                tokens += response
                action, valid = world.parse(text)
                observation = session.step(action)
                blank = [0.0] * len(response)
                episode.turns.append(Turn(prompt, response, blank, text, action, valid, observation))
                if observation.done:
                    break
        finally:
            session.close()
        return Demonstration(episode, expert_from or 0)
