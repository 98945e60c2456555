"""A small game served by the real OpenEnv server: python open_env_server.py PORT."""

from __future__ import annotations

import random
import sys
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Guess(Action):
    number: int
    remark: str = ""


class Answer(Observation):
    text: str
    messages: tuple[dict[str, str], ...] = ()


class GuessTheNumber(Environment[Guess, Answer, State]):
    """A number from 1 to 9, which the seed decides; three guesses."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Answer:
        self.secret = random.Random(seed).randint(1, options.get("most", 9))
        self.guesses = 0
        return Answer(text="Guess my number from 1 to 9.", messages=({"content": "hello"}, {"content": "you"}))

    def step(self, action: Guess, timeout_s: float | None = None, **options: Any) -> Answer:
        self.guesses += 1
        found = action.number == self.secret
        hint = "Right." if found else "Higher." if action.number < self.secret else "Lower."
        return Answer(text=hint, reward=float(found), done=found or self.guesses == 3)

    @property
    def state(self) -> State:
        return State()


if __name__ == "__main__":
    app = create_fastapi_app(GuessTheNumber, Guess, Answer, max_concurrent_envs=4)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
