"""The context provider after a rollout: hindsight contexts for the teacher, learning from outcomes, and reflections."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from sdar_pl.engines.base import Request, Sampling
from sdar_pl.environments.base import Environment
from sdar_pl.prompts import Prompter, TooLongError
from sdar_pl.runtime.ranks import all_gather
from sdar_pl.sampling.iteration import Iteration
from sdar_pl.sampling.tasks import REFLECT
from sdar_pl.skills.providers import ContextProvider
from sdar_pl.skills.reflections import Reflections
from sdar_pl.types import Episode


def add_hindsight_contexts(
    context: ContextProvider, prompter: Prompter, environment: Environment, episodes: Sequence[Episode]
) -> None:
    """Let the provider read the finished groups. Where an episode's context changes, the teacher's prompts follow.

    The length of a hindsight context is not known in advance. One over the limit is dropped for that episode, with a
    warning, instead of stopping the run.
    """
    for episode in episodes:
        after = context.after(episode, [other for other in episodes if other.group == episode.group])
        if after != episode.context:
            episode.context = after
            try:
                prompter.reread(environment, episode)
            except TooLongError as error:
                warnings.warn(f"an episode goes without privileged context: {error}", stacklevel=2)
                episode.context = ""
                prompter.reread(environment, episode)


def update_context_provider(context: ContextProvider, episodes: Sequence[Episode]) -> None:
    """Let the provider learn from the outcomes of all ranks, in the same order on each. Collective."""
    # Task.data may be of any type and size: it is not sent.
    own = [(e.group, e.index, replace(e.task, data=None), context.given(e.task), e.success) for e in episodes]
    for _, _, task, given, success in sorted(chain.from_iterable(all_gather(own)), key=itemgetter(0, 1)):
        context.update(task, given, success)


def learn_contexts(data: Any, epoch: int, iteration: Iteration) -> None:
    """Let a RolloutDataModule's provider learn from an iteration: from outcomes, and from reflections. Collective."""
    update_context_provider(data.context, [*iteration.episodes, *iteration.dropped])
    if isinstance(data.context, Reflections):
        reflect(data.context, data, epoch, iteration.episodes)


def reflect(context: Reflections, data: Any, epoch: int, episodes: Sequence[Episode]) -> None:
    """Let the policy write notes about judged episodes; every rank learns the notes of all ranks. Collective.

    A note depends on its group alone, whatever the number of ranks. A question over the prompt limit is left out.
    """
    chosen, requests = list[Episode](), list[Request]()
    for episode in context.chosen(episodes):
        try:
            prompt = data.prompter.question(context.question(episode), episode)
        except TooLongError as error:
            warnings.warn(f"an episode goes without reflection: {error}", stacklevel=2)
            continue
        stream = np.random.default_rng([data.seed, REFLECT, epoch, episode.group])
        requests.append(Request(episode.group, prompt, stream, keep=False))
        chosen.append(episode)
    sampling = Sampling(context.temperature, max_new_tokens=context.max_new_tokens)
    written = data.engine.generate(requests, sampling) if requests else []
    data.engine.release([request.session for request in requests])
    own = [
        (episode.group, replace(episode.task, data=None), data.prompter.decode(completion.tokens))
        for episode, completion in zip(chosen, written, strict=True)
    ]
    for _, task, note in sorted(chain.from_iterable(all_gather(own)), key=itemgetter(0)):
        context.learn(task, note)
