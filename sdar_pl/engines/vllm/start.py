"""What servers must have in common before a run begins: vLLM, one version, one base, enough context."""

from __future__ import annotations

from collections.abc import Sequence

from sdar_pl.engines.vllm.client import Client, FailedError, RefusedError
from sdar_pl.errors import UserError
from sdar_pl.policy import Policy


def common_base(clients: Sequence[Client], policy: Policy, max_model_len: int | None) -> tuple[str, int]:
    """Name of the base on all servers, and the shortest of their context lengths. Raises ``UserError``."""
    versions: dict[str, str] = {}
    bases: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for client in clients:
        try:
            versions[client.url] = client.version()
            base = client.models()[0]
        except (FailedError, RefusedError) as error:
            raise UserError(
                f"data.engine.servers: {client.url} is no vLLM server that answers ({error}); check the URL, or start "
                f"one: vllm serve {policy.source.name} --enable-lora"
            ) from error
        bases[client.url] = str(base["id"])
        lengths[client.url] = int(base.get("max_model_len") or 0)
    for what, found in (("versions of vLLM", versions), ("names of the base model", bases)):
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{url}: {value}" for url, value in found.items())
            raise UserError(f"data.engine.servers: different {what} ({listed}); use one on all servers")
    for url, length in lengths.items():
        if max_model_len is not None and length < max_model_len:
            raise UserError(
                f"data.engine.servers: {url} reads {length} tokens, data.engine.max_model_len is {max_model_len}; "
                f"start it with --max-model-len {max_model_len}"
            )
    return next(iter(bases.values())), min(lengths.values())
