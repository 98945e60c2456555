"""Ranks of one machine meet on its loopback interface.

Left alone, the store at which ranks meet (torch's TCPStore on rank 0) listens on every interface, and anybody who
reaches its port may read and write it. Here rank 0 hosts the store on a socket of 127.0.0.1, and all ranks join it as
they would join the store of torchrun's agent. Gloo and NCCL take the loopback interface unless the user names another.
Left out: ranks that another launcher starts, and several machines, which need a network (SECURITY.md).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

ADDRESS = "127.0.0.1"


def starts_ranks_here(trainer: L.Trainer) -> bool:
    """Whether a trainer has several ranks, all on this machine, and starts them itself."""
    connector = getattr(trainer, "_accelerator_connector")  # noqa: B009 – the environment has no public name
    environment = connector.cluster_environment
    return (
        trainer.world_size > 1
        and trainer.num_nodes == 1
        and type(environment) is LightningEnvironment
        and not environment.creates_processes_externally
    )


@contextlib.contextmanager
def meeting_on_loopback() -> Iterator[None]:
    """Inside, this process is rank 0 and hosts the store; the ranks that it starts inherit where it is."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        port = listener.getsockname()[1]
        store = TCPStore(ADDRESS, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    settings = {
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
        "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", loopback),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        del store  # ends the server
