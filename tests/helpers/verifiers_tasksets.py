"""Tasksets of verifiers that are made here: sums with one right reply, and what the adapter refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf


class SumData(vf.TaskData):  # type: ignore[misc]
    answer: str


class SumTask(vf.Task[SumData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    @vf.reward(weight=0.75)  # type: ignore[untyped-decorator]
    async def right(self, trace: Any) -> float:
        return float(trace.last_reply.strip() == self.data.answer)

    @vf.reward(weight=0.25)  # type: ignore[untyped-decorator]
    async def short(self, trace: Any) -> float:
        return float(len(trace.last_reply) <= 3)


class SumConfig(vf.TasksetConfig):  # type: ignore[misc]
    largest: int = 9


class Sums(vf.Taskset[SumTask, SumConfig]):  # type: ignore[misc]
    def load(self) -> Iterator[SumTask]:
        for n in range(1, self.config.largest + 1):
            for m in range(1, self.config.largest + 1):
                yield SumTask(SumData(prompt=f"{n} + {m} = ?", system_prompt="Add.", answer=f"{n + m}"))


class BoxedTask(SumTask):
    NEEDS_CONTAINER = True


class Boxed(vf.Taskset[BoxedTask, SumConfig]):  # type: ignore[misc]
    def load(self) -> Iterator[BoxedTask]:
        for n in range(9):
            yield BoxedTask(SumData(prompt=f"{n}?", answer=f"{n}"))


class PlainTask(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """No rewards: an environment would record them."""


class Plain(vf.Taskset[PlainTask, SumConfig]):  # type: ignore[misc]
    def load(self) -> Iterator[PlainTask]:
        for n in range(9):
            yield PlainTask(vf.TaskData(prompt=f"{n}?"))
