"""Scores of a panel's answers: exact match, F1 and substring match, for each dataset and on average."""

from __future__ import annotations

from collections.abc import Mapping

from sdar_pl.environments.search_qa.answers import exact_match, f1, substring_match
from sdar_pl.types import Episode

MEASURES = ("exact_match", "f1", "substring_match")


def scores(episode: Episode) -> dict[str, float]:
    """The measures of an episode's answer; all 0 where it gave none or failed.

    Only what the environment took as an action counts, never the text of a response or of a passage.
    """
    action = episode.turns[-1].action if episode.turns and not episode.failed else ""
    gold = episode.task.data["answers"]
    answer, right = exact_match(action, gold)
    if answer is None:
        return dict.fromkeys(MEASURES, 0.0)
    return {"exact_match": right, "f1": f1(answer, gold), "substring_match": substring_match(answer, gold)}


def averages(played: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """Values by task id with their datasets → the mean of each dataset, "micro" over all questions, and "macro": the
    mean of the datasets' means."""
    datasets = sorted({dataset for dataset, _ in played.values()})
    means = {name: _mean([value for dataset, value in played.values() if dataset == name]) for name in datasets}
    return {**means, "micro": _mean([value for _, value in played.values()]), "macro": _mean(list(means.values()))}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
