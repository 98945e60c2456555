"""The context provider after a rollout: hindsight contexts for the teacher, and learning from outcomes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter

from sdar_pl.environments.base import Environment
from sdar_pl.prompts import Prompter, TooLongError
from sdar_pl.runtime.ranks import all_gather
from sdar_pl.skills.providers import ContextProvider
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
