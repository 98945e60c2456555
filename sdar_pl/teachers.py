"""Whose weights the teacher reads with: the policy's own (the paper), those it began with, or their moving average.

The teacher always is the same network on the same base; only what is trained may differ. Left out: what it reads
(skills/), when it reads (scoring.py, module.py), and a teacher that is another model.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sdar_pl.errors import UserError
from sdar_pl.modeling.sharding import local, sharded_as, whole
from sdar_pl.policy import Policy


class Teacher(ABC):
    """One slot of a method. Only ``MovingAverage`` has a state."""

    def check(self, policy: Policy) -> None:  # noqa: B027 - most go with any policy
        """Raises ``UserError`` for a policy that cannot have this teacher."""

    def begin(self, policy: Policy) -> None:  # noqa: B027 - most need nothing
        """Meet the policy before each iteration, every rank holding its own shard of the weights."""

    @abstractmethod
    def view(self, policy: Policy) -> AbstractContextManager[None]:
        """Inside, the policy has the teacher's weights. Belongs inside ``Policy.whole()``; collective under FSDP2."""

    def follow(self, policy: Policy) -> None:  # noqa: B027 - most stand still or are the policy
        """An optimizer step has changed the policy."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, whole and on the CPU. Collective under FSDP2."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most have no state
        """Take back what ``state_dict`` gave; before ``begin``."""


class Current(Teacher):
    """The policy's own weights at the time of scoring (SDAR, 2605.15155)."""

    def view(self, policy: Policy) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Initial(Teacher):
    """The weights that the policy began with: the reference view, adapters off, reads the privileged context."""

    def check(self, policy: Policy) -> None:
        if policy.lora is None:
            raise UserError(
                "model.teacher: Initial is the model with its adapters off, and there are none; add model.policy.lora "
                "or use sdar_pl.teachers.MovingAverage"
            )

    def view(self, policy: Policy) -> AbstractContextManager[None]:
        return policy.reference()


class MovingAverage(Teacher):
    """Exponential moving average of what is trained: m ← decay·m + (1 − decay)·θ after every optimizer step.

    It begins as the policy's weights before the first rollout, so no bias is to be corrected; its mean age is
    decay / (1 − decay) steps. ``decay`` 0 is ``Current``. It counts optimizer steps and not iterations, so that its age
    does not depend on ``data.steps_per_iteration``, and a teacher that is scored at every step has moved on.

    The averages are float32 whatever the weights are (in bfloat16, small steps would vanish) and, under FSDP2, sharded
    as they are. Without adapters every weight is averaged. Raises ``UserError`` for ``decay`` outside [0, 1).
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise UserError(
                f"model.teacher.decay: {decay} is not between 0 (the policy itself) and 1 (excluded; a teacher that "
                "stands still is sdar_pl.teachers.Initial)"
            )
        self.decay = decay
        self._means: dict[str, Tensor] = {}  # name of a trained parameter → its average
        self._loaded: Mapping[str, Tensor] = {}

    def begin(self, policy: Policy) -> None:
        if self._means:
            return
        for name, weights in policy.trained():
            known = self._loaded.get(name)
            values = weights.detach() if known is None else sharded_as(known, weights)
            self._means[name] = values.to(weights.device, torch.float32, copy=True)
        self._loaded = {}

    @contextlib.contextmanager
    def view(self, policy: Policy) -> Iterator[None]:
        own = dict(policy.trained())
        held = {name: weights.detach().clone() for name, weights in own.items()}
        with torch.no_grad():
            try:
                for name, weights in own.items():
                    weights.copy_(whole(self._means[name]))
                yield
            finally:
                for name, weights in own.items():
                    weights.copy_(held[name])

    @torch.no_grad()
    def follow(self, policy: Policy) -> None:
        if self._means:  # else no teacher is wanted
            for name, weights in policy.trained():
                # Elementwise, so that every rank's own shard will do.
                local(self._means[name]).lerp_(local(weights).float(), 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: whole(mean).cpu() for name, mean in self._means.items()} or dict(self._loaded)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._means, self._loaded = {}, state
