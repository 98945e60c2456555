"""The policy's weights on the servers: one adapter folder and one name for each version, on every server or on none."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sdar_pl.engines.vllm.canary import Canary, CanaryError, adapters_are_off
from sdar_pl.engines.vllm.client import Client, FailedError, RefusedError
from sdar_pl.engines.vllm.fleet import Fleet
from sdar_pl.errors import UserError
from sdar_pl.modeling.frozen_adapter import TRAINED
from sdar_pl.policy import Policy
from sdar_pl.runtime.adapter_files import write_adapter_folder
from sdar_pl.runtime.files import remove


@dataclass(frozen=True)
class Version:
    """The weights that the servers hold.

    Args:
        name: of the adapter on the servers; the base's name where the policy's adapters are off.
        folder: of the adapter, as the servers see it; None for the base.
        digest: of the weights.
    """

    name: str
    folder: Path | None
    digest: str


@dataclass
class Versions:
    """Writes adapters and loads them. A version has a name and a path of its own.

    With equal names, vLLM would answer from prefix caches of older weights. The names are new in every process, so
    that a resumed run meets none of its old ones.

    Args:
        folder: where adapters are written; every server reads it under the same path.
        temporary: whether the folder goes with the last version.
    """

    folder: Path
    temporary: bool = False
    written: dict[str, Version] = field(default_factory=dict)
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def write(self, policy: Policy, digest: str, base: str) -> Version:
        """Write the policy's present adapters. Belongs inside ``Policy.whole()``. Raises ``UserError``."""
        if adapters_are_off(policy):
            return Version(base, None, digest)
        assert policy.lora is not None
        if policy.net.active_adapter != TRAINED:
            raise UserError(
                "data.engine: VLLMEngine cannot play with the adapter of sdar_pl.teachers.Trained; leave "
                "sdar_pl.callbacks.TeacherPanel out, or use sdar_pl.engines.TransformersEngine"
            )
        name = f"sdar-{self._run}-v{next(self._numbers)}"
        folder = self.folder / name
        version = self.written[name] = Version(name, folder.absolute(), digest)
        try:
            write_adapter_folder(adapter_weights(policy), vars(policy.lora), policy.source.located(), folder)
        except OSError as error:
            raise UserError(
                f"data.engine.adapters: cannot write {folder} ({error.strerror or error}); name a folder that this "
                "process may write and every server reads"
            ) from error
        return version

    def load(self, version: Version, fleet: Fleet, canary: Canary) -> None:  # type: ignore[type-arg]
        """Load the version and compare the canary on every server that is not out.

        A server that fails is put out. Raises ``UserError`` where one declines the adapter or answers wrongly; then
        no server keeps the version.
        """
        members = fleet.alive
        loaded: list[Client] = []
        for member in members:
            try:
                bring(member.client, version, canary)
                loaded.append(member.client)
            except FailedError as error:
                fleet.put_out(member, error)
            except (RefusedError, CanaryError) as error:
                self.unload(version, [*loaded, member.client])
                raise refusal(member.client, error) from error

    def unload(self, version: Version, clients: Sequence[Client]) -> None:
        """Let servers forget a version, and delete its folder. A server that does not answer is passed over."""
        if version.folder is None:
            return
        for client in clients:
            with contextlib.suppress(FailedError, RefusedError):
                client.unload(version.name)
        remove(version.folder)
        self.written.pop(version.name, None)
        if self.temporary:
            with contextlib.suppress(OSError):  # it holds another version
                self.folder.rmdir()

    def end(self, clients: Sequence[Client]) -> None:
        """Unload and delete every version that is left."""
        for version in list(self.written.values()):
            self.unload(version, clients)


def bring(client: Client, version: Version, canary: Canary) -> None:
    """Load the version, if the server lacks it, and compare the canary. Raises the client's and the canary's errors."""
    if version.folder is not None and version.name not in client.names():
        client.load(version.name, str(version.folder))
    canary.check(client)


def forget_others(client: Client, version: Version) -> None:
    """Unload the versions of this process that a server has kept while it was out."""
    run = version.name.rpartition("-v")[0]
    for name in client.names():
        if run and name.startswith(f"{run}-v") and name != version.name:
            client.unload(name)


def refusal(client: Client, error: Exception) -> UserError:
    """A server's refusal with the flag that mends it."""
    text = str(error)
    advice = ""
    if isinstance(error, RefusedError):
        low = text.lower()
        if error.status == 404 and "not found" in low and "adapter" not in low:
            advice = "; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and --enable-lora"
        elif "rank" in low:
            advice = "; start it with --max-lora-rank of at least model.policy.lora.r"
        elif "context length" in low or "max_model_len" in low:
            advice = "; start it with a larger --max-model-len"
        elif "logprobs" in low:
            advice = "; start it with --max-logprobs of at least model.correction.top_k"
        elif "lora" in low:
            advice = "; start it with --enable-lora, and let it read the folder of data.engine.adapters"
    return UserError(f"data.engine.servers: {client.url}: {text}{advice}")


def adapter_weights(policy: Policy) -> dict[str, Tensor]:
    """Copies of the adapters, float32 on the CPU, by peft's own names.

    Without a copy, ``numpy`` would hold on to FSDP2's whole parameters on a CPU, which then cannot be freed.
    """
    return {
        name.removeprefix("net."): parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in policy.named_parameters()
        if "lora_" in name and f".{TRAINED}." in name
    }


def digest_of(policy: Policy) -> str:
    """A hash of the policy's present adapters, or "base" where they are off."""
    if adapters_are_off(policy):
        return "base"
    hashed = hashlib.sha256()
    for name, weights in sorted(adapter_weights(policy).items()):
        hashed.update(name.encode())
        hashed.update(weights.contiguous().numpy().tobytes())
    return hashed.hexdigest()
