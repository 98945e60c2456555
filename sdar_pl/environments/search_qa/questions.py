"""Questions with their gold answers: rows in the Search-R1 layout, from Parquet or JSONL files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdar_pl.environments.search_qa.answers import golds
from sdar_pl.errors import UserError

KINDS = ("direct_retrieval", "entity_attribute", "multi_hop", "compare")

#: dataset → kind of its questions
SOURCES = {
    "nq": "direct_retrieval",
    "triviaqa": "direct_retrieval",
    "popqa": "entity_attribute",
    "hotpotqa": "multi_hop",
    "2wikimultihopqa": "multi_hop",
    "musique": "multi_hop",
    "bamboogle": "multi_hop",
}

_YES_OR_NO = re.compile(r"(are|were|is|was|do|does|did|have|has) .*\b(both|same|and|or)\b", re.IGNORECASE)
_WHICH_OF_TWO = re.compile(
    r"\b(which|who|what|whose)\b.*\b(first|same|\w+er|more|less|most|least|\w+est)\b.*, .* or ", re.IGNORECASE
)


@dataclass(frozen=True)
class Question:
    """One question.

    Example:
        ``Question("test/3", "Who wrote The Silver Key?", ("Mira Tolson",), "nq", "direct_retrieval")``
    """

    id: str
    text: str
    answers: tuple[str, ...]
    source: str  # the dataset
    kind: str


def load(folder: Path, split: str) -> list[Question]:
    """The questions of ``<folder>/<split>.parquet`` or ``.jsonl``.

    Raises ``UserError`` that names the file and the row, for rows without a question, without a gold answer and of an
    unknown dataset, and for a split that does not exist.
    """
    for path in (folder / f"{split}.parquet", folder / f"{split}.jsonl"):
        if path.is_file():
            read = [_question(row, split, number, place) for number, (place, row) in enumerate(_rows(path))]
            if not read:
                raise UserError(f"data.environment.questions: {path} has no rows; must hold at least one question")
            return read
    there = sorted(path.stem for path in folder.glob("*") if path.suffix in (".parquet", ".jsonl"))
    raise UserError(f"data.environment: SearchQA has no split {split!r}; {folder} has {', '.join(there) or 'none'}")


def kind_of(source: str, question: str, details: Mapping[str, Any]) -> str:
    """The kind of a question: an explicit field ("kind" or "type"), else comparison by its words, else by dataset.

    Words decide in multi-hop datasets only: a comparison asks which of two has a property, or whether both have it.
    Raises ``UserError`` for an unknown dataset without an explicit kind.
    """
    if details.get("kind") in KINDS:
        return str(details["kind"])
    if source not in SOURCES:
        raise UserError(f"data_source {source!r}; must be one of {', '.join(SOURCES)}, or give extra_info.kind")
    kind = details.get("type")
    if kind:
        return "compare" if "comparison" in str(kind) else SOURCES[source]
    return "compare" if SOURCES[source] == "multi_hop" and compares(question) else SOURCES[source]


def compares(question: str) -> bool:
    """Whether a question's words ask for a comparison of two things that it names."""
    return bool(_YES_OR_NO.match(question) or _WHICH_OF_TWO.search(question))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for error texts, row) of every row."""
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(
                "data.environment.questions: Parquet needs the package pyarrow; pip install 'sdar_pl[search]', or use "
                "JSONL"
            ) from error
        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of ValueError
            raise UserError(f"data.environment.questions: {path}: not readable as Parquet ({error})") from error
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(table.to_pylist()))
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}: line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"data.environment.questions: {place}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"data.environment.questions: {place}: {type(row).__name__}; must be an object")
            yield place, row


def _question(row: dict[str, Any], split: str, number: int, place: str) -> Question:
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"data.environment.questions: {place}: no question; must be a text")
    target = ((row.get("reward_model") or {}).get("ground_truth") or {}).get("target")
    given = row.get("golden_answers")
    answers = tuple(str(one) for one in golds(given if given is not None else target or []) if str(one).strip())
    if not answers:
        raise UserError(
            f"data.environment.questions: {place}: no gold answer; golden_answers or reward_model.ground_truth.target "
            "must hold one"
        )
    source = str(row.get("data_source", "")).removeprefix("searchR1_")
    details = {**(row.get("metadata") or {}), **(row.get("extra_info") or {})}
    try:
        kind = kind_of(source, text, details)
    except UserError as error:
        raise UserError(f"data.environment.questions: {place}: {error}") from None
    return Question(f"{split}/{number}", text.strip(), answers, source, kind)
