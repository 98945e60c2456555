"""Teachers: the policy's present weights (the paper), its initial weights, their moving average, a trained adapter.

A teacher is the same network on the same base; only the trained parameters may differ. Left out: the context that the
teacher reads (skills/), the time when it reads (scoring.py, module.py), and a teacher that is another model.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from sdar_pl.checks import between
from sdar_pl.errors import UserError
from sdar_pl.modeling.frozen_adapter import active, load_frozen, refuse_no_adapter
from sdar_pl.modeling.memory import Memory
from sdar_pl.modeling.sharding import local, sharded_as, whole
from sdar_pl.policy import Policy


class Teacher(ABC):
    """Base of the teachers: a view of the policy under the teacher's weights.

    A rollout calls ``begin``, then ``view`` around the teacher's forward passes; every optimizer step calls
    ``follow``. Only ``MovingAverage`` has a state. ``stands_still`` says that the weights never change: such a teacher
    differs from its student without a privileged context, too.
    """

    stands_still: bool = False

    def check(self, policy: Policy) -> None:  # noqa: B027 - most teachers go with any policy
        """Raises ``UserError`` for a policy that cannot have this teacher."""

    def begin(self, policy: Policy) -> None:  # noqa: B027 - most teachers need no preparation
        """Prepare for an iteration. Under FSDP2 every rank holds its own shard of the weights."""

    @abstractmethod
    def view(self, policy: Policy) -> AbstractContextManager[None]:
        """A block in which the policy has the teacher's weights. Belongs inside ``Policy.whole()``; collective."""

    def follow(self, policy: Policy) -> None:  # noqa: B027 - most teachers keep no weights of their own
        """Take notice of an optimizer step."""

    def memory(self, trained: int) -> dict[str, Memory]:
        """Name → bytes that the teacher takes beside a policy that trains ``trained`` parameters, for ``plan``."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Unsharded tensors on the CPU for a checkpoint. Collective under FSDP2."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most teachers have no state
        """Restore the state that ``state_dict`` returned; call it before ``begin``."""


class Current(Teacher):
    """The policy's own weights at the time of scoring (SDAR, 2605.15155)."""

    def view(self, policy: Policy) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Initial(Teacher):
    """The policy's initial weights: the reference view (adapters off) reads the privileged context."""

    stands_still = True

    def check(self, policy: Policy) -> None:
        if policy.lora is None:
            raise UserError(
                "model.teacher: Initial is the model with its adapters off, and it has none; add model.policy.lora "
                "or use sdar_pl.teachers.MovingAverage"
            )

    def view(self, policy: Policy) -> AbstractContextManager[None]:
        return policy.reference()


class Trained(Teacher):
    """The base under another, frozen adapter: a policy that was trained before, such as RetireOPD's (2609.20784).

    Left out of vLLM: there the teacher cannot play the panel (TeacherPanel).

    Args:
        folder: the adapter as a peft folder, such as a run's ``adapter/``; of the same base, of any rank.
    """

    stands_still = True
    _KEY = "model.teacher.folder"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def check(self, policy: Policy) -> None:
        if policy.lora is None:
            raise UserError("model.teacher: Trained is an adapter beside the policy's; add model.policy.lora")
        refuse_no_adapter(Path(self.folder), self._KEY)

    def begin(self, policy: Policy) -> None:
        if "teacher" not in policy.net.peft_config:
            load_frozen(policy.net, Path(self.folder), "teacher", self._KEY)

    def view(self, policy: Policy) -> AbstractContextManager[None]:
        return active(policy.net, "teacher")


class MovingAverage(Teacher):
    """Exponential moving average of the trained parameters: m ← decay·m + (1 − decay)·θ after every optimizer step.

    The average is initialised from the policy's weights, hence no bias correction as in Adam. The average counts
    optimizer steps and not iterations, so that its age does not depend on ``data.steps_per_iteration``.

    The averages are float32 whatever the weights' dtype (in bfloat16, small steps would vanish) and, under FSDP2,
    sharded like the weights. Without adapters every weight is averaged.

    Args:
        decay: share of the old average that stays at each step, in [0, 1); the mean age of the weights is
            decay / (1 − decay) steps. 0 is ``Current``.
    """

    def __init__(self, decay: float = 0.95) -> None:
        self.decay = between("model.teacher.decay", decay, 0, 1, ends="[)")  # for 1, use Initial
        self._means: dict[str, Tensor] = {}  # name of a trained parameter → its average
        self._loaded: Mapping[str, Tensor] = {}

    def begin(self, policy: Policy) -> None:
        if self._means:
            return
        for name, weights in policy.trained():
            loaded = self._loaded.get(name)
            values = weights.detach() if loaded is None else sharded_as(loaded, weights)
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
        if self._means:  # empty where no objective needs the teacher
            for name, weights in policy.trained():
                # Elementwise: every rank updates its own shard.
                local(self._means[name]).lerp_(local(weights).float(), 1 - self.decay)

    def memory(self, trained: int) -> dict[str, Memory]:
        return {"teacher's average": Memory(4 * trained)}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: whole(mean).cpu() for name, mean in self._means.items()} or dict(self._loaded)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._means, self._loaded = {}, state
