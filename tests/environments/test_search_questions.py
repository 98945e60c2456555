"""Search-QA: questions from files, their kinds, and the scores of a panel of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import scripted

from sdar_pl.callbacks import AnswerScores
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.search_qa.panel import averages, scores
from sdar_pl.environments.search_qa.questions import compares, kind_of
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.types import Episode, Observation, Task, Turn

RETRIEVER = BM25.of([Passage("1", "Oslo", "a town")])


# ---------------------------------------------------------------------- questions from files


def row(**changes: Any) -> dict[str, Any]:
    """A question in the Search-R1 layout."""
    whole = {
        "id": "test_0",
        "question": "who wrote the key?",
        "golden_answers": ["Mira Tolson"],
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "…"}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Mira Tolson", "M. Tolson"]}},
        "extra_info": {"split": "test", "index": 0},
    }
    return {**whole, **changes}


def written(folder: Path, rows: Sequence[Any], parquet: bool = False) -> str:
    if parquet:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / "test.parquet")
    else:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
        (folder / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("parquet", [False, True])
def test_rows(tmp_path: Path, parquet: bool) -> None:
    rows = [
        row(),
        row(data_source="searchR1_popqa", golden_answers=None),
        row(data_source="hotpotqa", question="Who was born first, Ada or Leo?"),
    ]
    world = SearchQA(written(tmp_path, rows, parquet), RETRIEVER)
    tasks = world.tasks("test")
    assert [task.kind for task in tasks] == ["direct_retrieval", "entity_attribute", "compare"]
    assert [task.data["source"] for task in tasks] == ["nq", "popqa", "hotpotqa"]
    assert [task.data["answers"] for task in tasks][:2] == [["Mira Tolson"], ["Mira Tolson", "M. Tolson"]]
    assert world.expert_plan(tasks[0]) == ()
    with pytest.raises(UserError, match=r"no split 'train'; .* has test"):
        world.tasks("train")


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([row(), "{"], r"test.jsonl: line 2: not JSON"),
        (["[1]"], r"line 1: list; must be an object"),
        ([row(question=" ")], r"line 1: no question"),
        ([row(golden_answers=[], reward_model=None)], r"line 1: no gold answer"),
        ([row(golden_answers=[" "])], r"line 1: no gold answer"),
        ([row(data_source="trivia")], r"line 1: data_source 'trivia'; must be one of nq, triviaqa"),
        ([], r"has no rows"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        SearchQA(written(tmp_path, rows), RETRIEVER).tasks("test")


def test_bad_parquet(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"test.parquet: not readable as Parquet"):
        SearchQA(str(tmp_path), RETRIEVER).tasks("test")


@pytest.mark.parametrize(
    ("question", "compared"),
    [
        ("Which magazine was started first, Arthur's Magazine or First for Women?", True),
        ("Were Scott Derrickson and Ed Wood of the same nationality?", True),
        ("Are Ada and Leo both rivers?", True),
        ("Who is older, Ada or Leo?", True),
        ("Who is the older brother of the author of The Key?", False),
        ("Which river flows through the home town of Ada?", False),
        ("What is the name of the first or last ruler?", False),
    ],
)
def test_comparisons_by_their_words(question: str, compared: bool) -> None:
    assert compares(question) is compared
    assert kind_of("hotpotqa", question, {}) == ("compare" if compared else "multi_hop")


def test_an_explicit_field_comes_first() -> None:
    assert kind_of("2wikimultihopqa", "who?", {"type": "bridge_comparison"}) == "compare"
    assert kind_of("hotpotqa", "Who is older, Ada or Leo?", {"type": "bridge"}) == "multi_hop"
    assert kind_of("mine", "who?", {"kind": "compare"}) == "compare"


# ---------------------------------------------------------------------- scores of a panel


def answered(source: str, action: str, failed: str = "") -> Episode:
    task = Task(f"{source}/{action}", "compare", "which?", {"answers": ["Oslo"], "source": source})
    turn = Turn([], [], [], "<answer>Oslo</answer>", action, True, Observation("<answer>Oslo</answer>"))
    return Episode(task, 0, 0, Observation("which?"), [turn], failed=failed)


def test_scores_of_a_panel() -> None:
    """Only the action counts; a dataset of one question weighs as much as one of three in the macro average."""
    episodes = [
        answered("nq", "<answer>Oslo</answer>"),
        answered("nq", "<answer>in Oslo</answer>"),
        answered("nq", "<search>Oslo</search>"),
        answered("popqa", "<answer>Oslo</answer>", failed="gone"),
    ]
    assert [scores(one)["exact_match"] for one in episodes] == [1.0, 0.0, 0.0, 0.0]
    assert [scores(one)["substring_match"] for one in episodes] == [1.0, 1.0, 0.0, 0.0]
    assert scores(episodes[1])["f1"] == pytest.approx(2 / 3)
    means = averages({one.task.id: (one.task.data["source"], scores(one)["exact_match"]) for one in episodes})
    assert means == {"nq": pytest.approx(1 / 3), "popqa": 0.0, "micro": 0.25, "macro": pytest.approx(1 / 6)}


def test_the_callback_writes_them(tmp_path: Path, make_policy: Any) -> None:
    def panel_of(number: int, task: str, teacher: bool) -> Episode:
        played = answered("nq" if int(task) < 3 else "popqa", "<answer>Oslo</answer>" if task != "1" else "")
        return replace(played, task=replace(played.task, id=task))

    trainer, module, data = scripted(
        tmp_path, make_policy(), [AnswerScores()], panel_of=panel_of, panel_tasks=4, logger=False
    )
    trainer.test(module, data, verbose=False)
    report = json.loads((tmp_path / "answers.json").read_text())
    assert report["exact_match"] == {
        "nq": pytest.approx(2 / 3),
        "popqa": 1.0,
        "micro": 0.75,
        "macro": pytest.approx(5 / 6),
    }
    assert report["n"] == {"nq": 3, "popqa": 1}
    assert set(report) == {"exact_match", "f1", "substring_match", "n"}
