"""Work on several ranks: forked processes with a real gloo group, results in the order of ranks."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch


def on_ranks(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run ``works[k]`` on rank k of ``len(works)`` → what they returned (picklable). Raises what a rank raised."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [fork.Pipe(duplex=False) for _ in works]
        processes = [
            fork.Process(target=_rank, args=(rank, len(works), f"{folder}/meeting", work, pipe[1]), daemon=True)
            for rank, (work, pipe) in enumerate(zip(works, pipes, strict=True))
        ]
        for process in processes:
            process.start()
        results = []
        for receiver, _ in pipes:
            assert receiver.poll(60), "a rank returned nothing within a minute"
            results.append(receiver.recv())
        for process in processes:
            process.join(10)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _rank(rank: int, world: int, meeting: str, work: Callable[[], Any], sender: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        sender.send(work())
    except BaseException as error:
        sender.send(error)
    torch.distributed.destroy_process_group()
