"""OwnRandom: a session's own state of Python's and numpy's global random generators.

Some packages draw from the generators that a whole process shares: sessions side by side would disturb each other, and
the program around them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

_LOCK = Lock()


class OwnRandom:
    """Inside ``active``, the global generators go on where this object's last block left them.

    One block at a time: blocks of other objects wait, in any thread. At its end the global generators have the state
    that they had before.

    Args:
        seed: of both generators, below 2³².
    """

    def __init__(self, seed: int) -> None:
        self.state: tuple[Any, Any] = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        with _LOCK:
            outside = random.getstate(), np.random.get_state()
            try:
                random.setstate(self.state[0])
                np.random.set_state(self.state[1])
                yield
            finally:
                self.state = random.getstate(), np.random.get_state()
                random.setstate(outside[0])
                np.random.set_state(outside[1])
