"""Privileged context: skills and other texts that the teacher reads. Every name here can be used as ``class_path``."""

from sdar_pl.skills.hindsight import Hindsight, ReferenceSolution, SiblingEpisode
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.providers import ContextProvider, NoContext, SkillContext
from sdar_pl.skills.retrievers import BM25, UCB, All, ByKind, Keyword, Random, Retriever

__all__ = [
    "BM25",
    "UCB",
    "All",
    "ByKind",
    "ContextProvider",
    "Hindsight",
    "Keyword",
    "NoContext",
    "Random",
    "ReferenceSolution",
    "Retriever",
    "SiblingEpisode",
    "SkillContext",
    "SkillLibrary",
]
