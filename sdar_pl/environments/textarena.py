"""TextArena: the single-player games of textarena.

A game's id is the kind of its tasks. The games draw from Python's global random generator, which every session here
has for itself. What a move brings is the game's own reward, once, at its end: from 0 to 1, a share of the way for a
game that is lost, in some games negative for an invalid move. pip install 'sdar_pl[textarena]'.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdar_pl.checks import between
from sdar_pl.environments.base import Session
from sdar_pl.environments.generated import Generated, package, seed_of
from sdar_pl.environments.global_random import OwnRandom
from sdar_pl.errors import UserError
from sdar_pl.types import Observation, Task

#: beginning of a game's id → the variable with the key that it needs at run time
KEYS = dict.fromkeys(("GuessWho", "TwentyQuestions"), "OPENROUTER_API_KEY")
UNREADABLE = "The game cannot read this action."


class TextArenaSession(Session):
    """One game.

    Args:
        game: the package's game, unwrapped.
        seed: of its random draws.
        threshold: reward from which the game is won.
    """

    def __init__(self, game: Any, seed: int, threshold: float) -> None:
        self.game, self.seed, self.threshold = game, seed, threshold
        self.random = OwnRandom(seed)
        self.last = Observation("")

    def reset(self) -> Observation:
        with self.random.active():
            self.game.reset(num_players=1, seed=self.seed)
            self.last = Observation(self._messages(), score=0.0)
        return self.last

    def step(self, action: str) -> Observation:
        if self.last.done:
            return replace(self.last, reward=0.0)
        with self.random.active():
            try:
                done = bool(self.game.step(action)[0])
            except Exception:  # some games raise at an action that they cannot read
                self.last = Observation(UNREADABLE, score=0.0)
                return self.last
            text = self._messages()
        if not done:
            self.last = Observation(text, score=0.0)
            return self.last
        state = self.game.state
        reward = (state.rewards or {}).get(0, 0.0)
        reward = float(reward) if isinstance(reward, (int, float)) else 0.0  # some games put a text there
        reason = str(state.game_info[0].get("reason") or "The game has ended.")
        won, score = reward >= self.threshold, min(1.0, max(0.0, reward))
        self.last = Observation("\n".join(filter(None, [text, reason])), (), reward, True, won, score)
        return self.last

    def _messages(self) -> str:
        """What the game wrote since the last call, without the player's own actions."""
        _, messages = self.game.get_observation()
        # Some games name no sender for the player's actions, others pass their arguments in the wrong order.
        own = [who == 0 or getattr(kind, "name", "") == "PLAYER_ACTION" for who, _, kind in messages]
        texts = [text for _, text, _ in messages]
        return "\n".join(t for t, mine in zip(texts, own, strict=True) if isinstance(t, str) and not mine)


class TextArena(Generated):
    """Single-player games of textarena.

    Args:
        games: ids of games, without -train and -raw.
        threshold: reward from which a game is won, in (0, 1].
        train_tasks: number of tasks in the split "train".
        validation_tasks: number of tasks in the split "validation".
        test_tasks: number of tasks in the split "test".
        seed: of the games; another seed makes other games. It does not follow ``seed_everything``.

    Raises ``UserError`` for a game that is unknown, is for several players, or cannot run here: with what it needs.
    """

    instructions = "Give your move in square brackets, as the rules say."

    def __init__(
        self,
        games: Sequence[str] = ("GuessTheNumber-v0", "Mastermind-v0", "TowerOfHanoi-v0"),
        threshold: float = 1.0,
        train_tasks: int = 10_000,
        validation_tasks: int = 64,
        test_tasks: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(games, train_tasks, validation_tasks, test_tasks, seed)
        self.threshold = between("data.environment.threshold", threshold, 0, 1, ends="(]")
        self.package = package("textarena", "textarena", "TextArena")
        if not self.kinds:
            raise UserError("data.environment.games: []; name one of textarena's games")
        for game in self.kinds:
            self._refuse_unplayable(game)

    def task(self, split: str, index: int) -> Task:
        game = self.kinds[index % len(self.kinds)]
        data = {"game": game, "seed": seed_of(game, split, index, self.seed)}
        return Task(f"{game}/{split}/{index}", game, f"Play {game}.", data)

    def session(self, task: Task) -> TextArenaSession:
        with OwnRandom(0).active():
            game = self.package.make(f"{task.data['game']}-raw")
        return TextArenaSession(game, task.data["seed"], self.threshold)

    def parse(self, text: str) -> tuple[str, bool]:
        """What follows the reasoning, valid with a move in square brackets; else in brackets, as textarena does it."""
        action = text.rpartition("</think>")[2].strip()
        before, opened, rest = action.partition("[")
        if opened and "]" in rest:
            return action, True
        return (action, False) if opened or "]" in before else (f"[{action}]", False)

    def _refuse_unplayable(self, game: str) -> None:
        """Open one session. Raises ``UserError`` where that fails."""
        key = next((name for start, name in KEYS.items() if game.startswith(start)), None)
        if key and not os.environ.get(key):
            raise UserError(f"data.environment.games: {game} asks a model over the network; set {key}, or leave it out")
        if f"{game}-raw" not in self.package.envs.registration.ENV_REGISTRY:
            raise UserError(
                f"data.environment.games: {game!r}; textarena has no such game (ids without -train and -raw)"
            )
        try:
            self.session(Task(game, game, game, {"game": game, "seed": 0})).reset()
        except LookupError as error:
            raise UserError(
                f"data.environment.games: {game} needs data of NLTK; download it once with "
                "'python -m nltk.downloader words averaged_perceptron_tagger_eng', or leave it out"
            ) from error
        except SyntaxError as error:
            raise UserError(f"data.environment.games: {game} needs Python 3.12 or newer; leave it out") from error
        except AssertionError as error:
            raise UserError(f"data.environment.games: {game} is not for one player ({error}); leave it out") from error
        except Exception as error:  # files that the package lacks, packages that it does not require
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"data.environment.games: {game} cannot run here ({problem}); leave it out") from error
