"""The figures of a comparison, its tables and its files."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from helpers.evidence import required
from rich.console import Console

from sdar_pl.errors import UserError
from sdar_pl.reports.comparison import Run, learning_curves, summarise
from sdar_pl.reports.comparison_files import (
    ONE_SEED,
    caption,
    chance,
    in_brief,
    markdown,
    percent,
    points,
    report,
    row,
    table,
)
from sdar_pl.reports.significance import holm
from sdar_pl.reports.statistics import Interval
from sdar_pl.runtime.words import duration


def runs() -> list[Run]:
    """Two methods, three seeds; tasks differ much, "b" wins one task more than "a" for every seed."""
    result = []
    for seed in range(3):
        for name, wins in (("a", 4 + seed), ("b", 5 + seed)):
            panels = {n: {f"t{k:02}": float(k < w) for k in range(20)} for n, w in ((0, 2), (5, 3), (10, wins))}
            result.append(Run(name, seed, panels, 100.0 + seed, 1000.0 * (seed + 1)))
    return result


def test_figures() -> None:
    first, second = summarise(runs(), ["a", "b"])
    assert (first.objective, first.seeds, first.tasks, first.iterations) == ("a", 3, 20, 10)
    assert (first.before.mean, first.after.mean, second.after.mean) == pytest.approx((0.1, 0.25, 0.3))
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.05)
    assert second.difference.high - second.difference.low < second.after.high - second.after.low
    assert (first.seconds, first.generated) == (101.0, 2000.0)
    curve = learning_curves(runs(), ["b"])["b"]
    assert [(n, round(v.mean, 3)) for n, v in curve.items()] == [(0, 0.1), (5, 0.15), (10, 0.3)]


def test_only_common_seeds_and_tasks_are_compared() -> None:
    some = [run for run in runs() if (run.objective, run.seed) != ("a", 0)]
    some[0].panels[10] |= {"extra": 1.0}
    first, second = summarise(some, ["a", "b"])
    assert (first.seeds, second.seeds, first.tasks) == (2, 3, 20)
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.05)
    with pytest.raises(UserError, match="share no task"):
        summarise([some[0], Run("a", 1, {0: {"other": 1.0}}, 0, 0)], ["a", "b"])


def written(folder: Path) -> str:
    """The files of ``runs()`` in ``folder`` → what is printed."""
    console = Console(width=100, file=io.StringIO(), record=True)
    report(runs(), ["a", "b"], folder, "python -m sdar_pl compare --config x.yaml", console)
    return console.export_text()


def test_markdown_and_csv_say_the_same(tmp_path: Path) -> None:
    printed = written(tmp_path)
    assert str(tmp_path / "comparison.csv") in printed.replace("\n", "")
    text = (tmp_path / "comparison.md").read_text()
    assert text.startswith("# Success on a panel of 20 tasks, 10 iterations\n")
    assert "\n    python -m sdar_pl compare --config x.yaml\n" in text
    first, second = (line.split(" | ") for line in text.splitlines() if line.startswith(("| a", "| b")))
    assert first[1].startswith("3")
    assert first[2].startswith("10.0 [0.0, ")
    assert first[4:] == ["–", "–", "101 s", "2,000 |"]
    assert second[4].startswith("+5.0 [+")
    assert text.splitlines()[4].split(" | ")[5] == "p"
    # A task is gained for each seed, another one each time: a resample of d seeds holds none with chance (1 − d/20)^20.
    assert float(second[5]) == pytest.approx(
        2 * sum(n / 27 * (1 - d / 20) ** 20 for d, n in ((1, 3), (2, 18), (3, 6))), abs=0.02
    )
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["objective"] for row in rows] == ["a", "b"]
    assert [float(rows[1][name]) for name in ("before", "after", "difference")] == [0.1, 0.3, 0.05]
    assert float(rows[1]["difference_low"]) < 0.05 < float(rows[1]["difference_high"])
    assert rows[0]["difference_low"] == rows[0]["p"] == rows[0]["difference_seeds"] == ""
    assert (rows[1]["p"], rows[1]["difference_seeds"]) == (rows[1]["p_holm"], "3")
    assert [rows[0][name] for name in ("seeds", "tasks", "iterations", "seconds", "generated_tokens")] == [
        *("3", "20", "10", "101.0", "2000"),
    ]


def many(seeds: dict[str, int]) -> list[Run]:
    """Methods with their numbers of seeds; the k-th method wins 2·k of 20 tasks more than the first, for every seed."""
    return [
        Run(
            name,
            seed,
            {n: {f"t{i:02}": float(i < w) for i in range(20)} for n, w in ((0, 2), (5, 4 + 2 * k))},
            1.0,
            1.0,
        )
        for k, (name, count) in enumerate(seeds.items())
        for seed in range(count)
    ]


def test_comparisons_with_one_baseline_are_one_family() -> None:
    found = summarise(many({"a": 3, "b": 3, "c": 3, "d": 3}), ["a", "b", "c", "d"])
    assert (found[0].p, found[0].p_holm) == (None, None)
    raw, adjusted = ([getattr(summary, name) for summary in found[1:]] for name in ("p", "p_holm"))
    assert adjusted == holm(raw)
    assert raw[2] < 0.05 < raw[0]
    assert adjusted[2] == 3 * raw[2]
    assert "corrected by Holm for 3 comparisons with a." in caption(found)
    assert "Holm" not in caption(found[:2])
    assert "p:" not in caption(found[:1])


def test_a_line_says_how_many_seeds_its_intervals_hold() -> None:
    found = summarise(many({"a": 2, "b": 3, "c": 1, "d": 2}), ["a", "b", "c", "d"])
    cells = [row(summary) for summary in found]
    assert [line[1] for line in cells] == ["2", "3", "1 †", "2"]
    assert cells[1][4].endswith("] of 2 seeds")
    assert cells[3][4].endswith("]")
    assert ONE_SEED in caption(found)
    assert ONE_SEED not in caption([found[0], found[3]])
    one_pair = summarise(many({"a": 1, "b": 3}), ["a", "b"])
    assert row(one_pair[1])[4].endswith("] of 1 † seed")


@pytest.mark.parametrize(
    "long",
    ["grpo_opsd_official_lambda_1.0+random_skills", "grpo_opsd_official(distillation.coefficient=1)+random_skills"],
)
def test_figures_stay_whole_beside_long_names_on_a_small_terminal(long: str) -> None:
    renamed = [Run(run.objective.replace("b", long), *list(vars(run).values())[1:]) for run in runs()]
    console = Console(width=80, file=io.StringIO(), record=True)
    summaries = summarise(renamed, ["a", long])
    console.print(table(summaries))
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 80
    assert f" p {chance(summaries[1].p_holm)} " in printed
    for text in (percent(summaries[1].after), points(summaries[1].difference)):
        assert f"[{text.split('[')[1]}" in printed


def test_a_hostile_name_breaks_neither_table(tmp_path: Path) -> None:
    name = "sdar(x=[/nothing] a|b\n\x1b[2J)"
    summaries = summarise([Run(name, *list(vars(run).values())[1:]) for run in runs() if run.objective == "a"], [name])
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table(summaries))
    printed = console.export_text()
    assert "[/nothing] a|b\\n\\x1b[2J)" in printed
    assert "\x1b" not in printed
    rows = [line for line in markdown(summaries, "compare", None).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert rows[2].startswith(r"| sdar(x=[/nothing] a\|b\n\x1b[2J) | 3 |")


def test_figures_are_drawn_where_matplotlib_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required("matplotlib", "the figures of a comparison")
    assert "no figure" not in written(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "curves.svg").read_text()
    assert "![learning curves](curves.svg)" in (tmp_path / "comparison.md").read_text()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "no figure: pip install 'sdar_pl[compare]'" in written(tmp_path)
    assert "learning curves" not in (tmp_path / "comparison.md").read_text()


def test_numbers_as_text() -> None:
    assert percent(Interval(0.5, 0.25, 0.999)) == "50.0 [25.0, 99.9]"
    assert points(Interval(-0.05, -0.1, 0.0)) == "-5.0 [-10.0, +0.0]"
    assert points(None) == "–"
    assert [chance(p) for p in (None, 0.0004, 0.001, 0.25, 1.0)] == ["–", "<0.001", "0.001", "0.250", "1.000"]
    assert [duration(seconds) for seconds in (0.4, 119, 120, 7199, 7200)] == [
        "0 s",
        "119 s",
        "2.0 min",
        "120.0 min",
        "2.0 h",
    ]
    assert in_brief(runs()[0]) == "success 10.0 → 20.0 % · 100 s"
