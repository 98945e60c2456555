"""compare: which cells are run and which are kept, the statistics, the tables; ``fit`` is a fake but for the last."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from rich.console import Console

from sdar_pl.cli import main as command_line
from sdar_pl.commands.compare import find, main
from sdar_pl.errors import UserError
from sdar_pl.reports import comparison as report
from sdar_pl.reports.comparison import Run
from sdar_pl.reports.statistics import Interval, hierarchical_bootstrap

# ``fit`` in two seconds less: writes what a run writes. What it is to do stands in a file beside it.
FAKE = """
import json, os, pathlib, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
files = [pathlib.Path(word.split("=", 1)[1]).stem for word in sys.argv[1:] if word.startswith("--config=")]
name, seed = "+".join(files[1:]), int(given["seed_everything"])
here = pathlib.Path(__file__).parent
with open(here / "calls.txt", "a") as calls:
    calls.write(f"{name} {seed}\\n")
assert "SDAR_PL_RUN_FOLDER" not in os.environ
folder = pathlib.Path(given["trainer.default_root_dir"]) / given["run"]
assert not folder.exists()
folder.mkdir(parents=True)
(folder / "half.txt").write_text("")
print("iteration 1/2 · working", flush=True)
plan = json.loads((here / "plan.json").read_text()).get(f"{name} {seed}", "")
if plan == "fail":
    sys.exit("error: data.group_size: no good")
if plan == "hang":
    time.sleep(600)
chance = {"grpo": 0.25, "sdar": 0.75}.get(name, 0.5)
lines = [{"iteration": 1, "split": "train", "task": "x", "success": True}]
for number, rate in ((0, 0.25), (1, 0.25 + chance / 4), (2, chance)):
    for k in range(16):
        lines.append({"iteration": number, "split": "validation", "task": f"t{k}", "success": k < 16 * rate})
half = [lines[::2], lines[1::2]]  # two ranks
for part, rank in zip(half, ("", ".rank1")):
    if plan != "silent":
        (folder / f"episodes{rank}.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in part))
(folder / "episodes.validate.jsonl").write_text(json.dumps({**lines[1], "iteration": 9}) + "\\n")
(folder / "summary.json").write_text(json.dumps({"seconds": 60 + seed}))
(folder / "metrics.csv").write_text("step,rollout/generated_tokens\\n0,\\n1,100\\n2,200.0\\n")
"""


class House:
    """A folder with configs, the fake ``fit`` and its log of calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "configs" / "objectives").mkdir(parents=True)
        (folder / "configs" / "contexts").mkdir()
        self.base = folder / "configs" / "base.yaml"
        self.base.write_text("seed_everything: 3\ntrainer: {max_epochs: 2}\n")
        for name in ("grpo", "sdar"):
            (folder / "configs" / "objectives" / f"{name}.yaml").write_text(f"model: {{objective: {name}}}\n")
        (folder / "configs" / "contexts" / "random_skills.yaml").write_text("data: {context: x}\n")
        (folder / "fake.py").write_text(FAKE)
        self.plan({})

    def plan(self, plan: dict[str, str]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    @property
    def fit(self) -> list[str]:
        return [sys.executable, str(self.folder / "fake.py")]

    def arguments(self, *more: str, objectives: str = "grpo,sdar", seeds: int = 2) -> list[str]:
        given = ["--config", str(self.base), "--objectives", objectives, "--seeds", str(seeds), "--out", str(self.out)]
        return [*given, *more]

    def run(self, *more: str, objectives: str = "grpo,sdar", seeds: int = 2) -> int:
        return main(self.arguments(*more, objectives=objectives, seeds=seeds), self.fit)

    def calls(self) -> list[str]:
        """What has been run since this was last asked."""
        path = self.folder / "calls.txt"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return calls


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("SDAR_PL_RUN_FOLDER", "elsewhere")
    return House(tmp_path)


# Which cells are run.


def test_a_finished_cell_is_kept(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert house.run() == 0
    assert house.calls() == ["grpo 3", "sdar 3", "grpo 4", "sdar 4"]
    said = capsys.readouterr().out
    assert "1/4 · grpo · seed 3 · success 25.0 → 25.0 % · 63 s" in said
    assert "\x1b" not in said
    assert house.run() == 0
    assert house.calls() == []
    assert capsys.readouterr().out.count("· kept") == 4
    assert house.run(seeds=3) == 0
    assert house.calls() == ["grpo 5", "sdar 5"]


def test_a_comment_changes_nothing_and_a_number_does(house: House) -> None:
    house.run()
    house.calls()
    house.base.write_text("# the same\n" + house.base.read_text())
    house.run()
    assert house.calls() == []
    (house.folder / "configs" / "objectives" / "sdar.yaml").write_text("model: {objective: better}\n")
    house.run()
    assert house.calls() == ["sdar 3", "sdar 4"]
    house.run("--budget", "7")
    assert len(house.calls()) == 4
    house.run("--budget", "7", "--data.group_size=4")
    assert len(house.calls()) == 4


def test_an_unfinished_cell_starts_again(house: House) -> None:
    house.run()
    house.calls()
    (house.out / "sdar" / "seed-3" / "cell.json").write_text('{"hash": "cut o')
    (house.out / "grpo" / "seed-4" / "cell.json").unlink()
    assert house.run() == 0
    assert house.calls() == ["sdar 3", "grpo 4"]


def test_a_failed_cell_is_told_and_the_others_go_on(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.plan({"grpo 3": "fail", "sdar 4": "silent"})
    assert house.run() == 1
    said = capsys.readouterr().out
    assert "1/4 · grpo · seed 3 · FAILED: error: data.group_size: no good (exit status 1)" in said
    assert "its results cannot be read: ValueError: episodes.jsonl holds no panels" in said
    assert "2 of 4 cells are finished; failed: grpo seed 3, sdar seed 4" in said
    assert "error: data.group_size" in (house.out / "grpo" / "seed-3" / "log.txt").read_text()
    with (house.out / "comparison.csv").open() as file:
        rows = {row["objective"]: row for row in csv.DictReader(file)}
    assert rows["sdar"]["difference"] == ""  # no seed that both have
    house.plan({})
    house.calls()
    assert house.run() == 0
    assert house.calls() == ["grpo 3", "sdar 4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_finished(house: House, number: signal.Signals) -> None:
    house.plan({"grpo 4": "hang"})
    code = (
        f"import sys; from sdar_pl.commands.compare import main; sys.exit(main({house.arguments()!r}, {house.fit!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        half = house.out / "grpo" / "seed-4" / "log.txt"
        for _ in range(600):
            if half.exists() and half.read_text():
                break
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "2 of 4 cells are finished; stopped" in said
    assert "Traceback" not in said
    assert (house.out / "comparison.md").exists()
    assert not (house.out / "grpo" / "seed-4" / "cell.json").exists()
    house.plan({})
    house.calls()
    assert house.run() == 0
    assert house.calls() == ["grpo 4", "sdar 4"]


def test_what_a_cell_is_told(house: House, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {}\n")
    names = f"grpo,sdar+random_skills,{mine}"
    assert house.run("--budget", "5", "--data.group_size", "4", objectives=names, seeds=1) == 0
    assert house.calls() == ["grpo 3", "sdar+random_skills 3", "mine 3"]
    assert (house.out / "sdar+random_skills" / "seed-3" / "cell.json").exists()
    assert house.run("--seed_everything", "11", objectives="grpo", seeds=1) == 0
    assert house.calls() == ["grpo 11"]


@pytest.mark.parametrize("name", ["sdar", "ucb_skills", "ema"])
def test_parts_of_every_kind_are_found(name: str) -> None:
    for recipe in ("quickstart.yaml", "alfworld/sdar.yaml"):
        assert find(name, ROOT / "configs" / recipe).stem == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": "grpo,sadr"}, "no 'sadr' beside .*give a file or one of grpo, random_skills, sdar"),
        ({"objectives": "grpo,"}, "no ''"),
        ({"objectives": "grpo,grpo"}, "'grpo' is named twice"),
        ({"objectives": "absent.yaml"}, "no file absent.yaml"),
        ({"seeds": 0}, "--seeds: 0 must be 1 or more"),
        ({"more": ["--seeds", "few"]}, "argument --seeds"),
        ({"more": ["--budget", "0"]}, "--budget: 0 must be 1 or more"),
        ({"more": ["--config", "nowhere.yaml"]}, "--config: nowhere.yaml cannot be read"),
        ({"more": ["--config", "bad.yaml"]}, "--config: bad.yaml is no YAML"),
    ],
)
def test_bad_input(
    house: House,
    options: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(house.folder)
    (house.folder / "bad.yaml").write_text("a: [\n")
    more = options.pop("more", [])
    arguments = house.arguments(*more, **options)  # type: ignore[misc, arg-type]
    with pytest.raises(UserError, match=message):
        main(arguments, house.fit)
    assert command_line(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_help_and_missing_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["compare"]) == 2
    assert "--config, --objectives" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command_line(["compare", "--help"])
    assert ended.value.code == 0
    assert "--seeds" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(house: House) -> None:
    house.out.write_text("a file")
    with pytest.raises(UserError, match="--out: cannot write to"):
        house.run()


# Statistics.


def test_bootstrap_of_what_does_not_vary() -> None:
    assert hierarchical_bootstrap(np.full((3, 5), 0.5)) == Interval(0.5, 0.5, 0.5)
    assert hierarchical_bootstrap([[1.0]]) == Interval(1.0, 1.0, 1.0)


def test_bootstrap_has_the_spread_of_its_parts() -> None:
    """Standard errors: of seeds alone, of tasks alone, and of both in an additive matrix (independent: they add)."""
    stream = np.random.default_rng(0)
    seeds, tasks = stream.normal(size=40), 2 * stream.normal(size=60)

    def width(matrix: np.ndarray) -> float:
        result = hierarchical_bootstrap(matrix)
        assert result.low < result.mean < result.high
        assert result.mean == pytest.approx(matrix.mean())
        return result.high - result.low

    of_seeds, of_tasks = seeds.std() / len(seeds) ** 0.5, tasks.std() / len(tasks) ** 0.5
    factor = 2 * 1.96
    assert width(np.tile(seeds[:, None], (1, 60))) == pytest.approx(factor * of_seeds, rel=0.05)
    assert width(np.tile(tasks, (40, 1))) == pytest.approx(factor * of_tasks, rel=0.05)
    both = width(seeds[:, None] + tasks)
    assert both == pytest.approx(factor * (of_seeds**2 + of_tasks**2) ** 0.5, rel=0.05)


def test_bootstrap_is_reproducible_and_refuses_nonsense() -> None:
    matrix = np.random.default_rng(1).integers(0, 2, (5, 20))
    assert hierarchical_bootstrap(matrix) == hierarchical_bootstrap(matrix)
    for bad in ([], [1.0, 0.0], np.zeros((0, 3)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="no matrix"):
            hierarchical_bootstrap(bad)


# Tables.


def runs() -> list[Run]:
    """Two methods, three seeds; tasks differ much, "b" wins one task more than "a" for every seed."""
    result = []
    for seed in range(3):
        for name, wins in (("a", 4 + seed), ("b", 5 + seed)):
            panels = {n: {f"t{k:02}": float(k < w) for k in range(20)} for n, w in ((0, 2), (5, 3), (10, wins))}
            result.append(Run(name, seed, panels, 100.0 + seed, 1000.0 * (seed + 1)))
    return result


def test_figures() -> None:
    first, second = report.lines(runs(), ["a", "b"])
    assert (first.objective, first.seeds, first.tasks, first.iterations) == ("a", 3, 20, 10)
    assert (first.before.mean, first.after.mean, second.after.mean) == pytest.approx((0.1, 0.25, 0.3))
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.05)
    assert second.difference.high - second.difference.low < second.after.high - second.after.low
    assert (first.seconds, first.generated) == (101.0, 2000.0)
    curve = report.curves(runs(), ["b"])["b"]
    assert [(n, round(v.mean, 3)) for n, v in curve.items()] == [(0, 0.1), (5, 0.15), (10, 0.3)]


def test_only_common_seeds_and_tasks_are_compared() -> None:
    some = [run for run in runs() if (run.objective, run.seed) != ("a", 0)]
    some[0].panels[10] |= {"extra": 1.0}
    first, second = report.lines(some, ["a", "b"])
    assert (first.seeds, second.seeds, first.tasks) == (2, 3, 20)
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.05)
    with pytest.raises(UserError, match="share no task"):
        report.lines([some[0], Run("a", 1, {0: {"other": 1.0}}, 0, 0)], ["a", "b"])


def test_tables_say_the_same(house: House) -> None:
    assert house.run() == 0
    text = (house.out / "comparison.md").read_text()
    assert "    python -m sdar_pl compare --config" in text
    grpo, sdar = (line.split(" | ") for line in text.splitlines() if line.startswith(("| grpo", "| sdar")))
    assert grpo[1:3] == ["2", "25.0 [6.2, 50.0]"]
    assert grpo[4:] == ["–", "64 s", "300 |"]
    assert sdar[4].startswith("+50.0 [+")
    with (house.out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["objective"] for row in rows] == ["grpo", "sdar"]
    assert [float(rows[1][name]) for name in ("before", "after", "difference")] == [0.25, 0.75, 0.5]
    assert float(rows[1]["difference_low"]) < 0.5 < float(rows[1]["difference_high"])
    assert rows[0]["difference_low"] == ""


def test_figures_stay_whole_beside_long_names_on_a_small_terminal() -> None:
    long = "grpo_opsd_official_lambda_1.0+random_skills"
    some = [Run(run.objective.replace("b", long), *list(vars(run).values())[1:]) for run in runs()]
    console = Console(width=80, file=io.StringIO(), record=True)
    found = report.lines(some, ["a", long])
    console.print(report.table(found))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    assert found[1].difference is not None
    for text in (report.share(found[1].after), report.points(found[1].difference)):
        assert f"[{text.split('[')[1]}" in said


def test_pictures(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert house.run() == 0
    assert (house.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (house.out / "curves.svg").read_text()
    assert "![learning curves](curves.svg)" in (house.out / "comparison.md").read_text()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    capsys.readouterr()
    assert house.run() == 0
    assert "no pictures: pip install 'sdar_pl[compare]'" in capsys.readouterr().out
    assert "learning curves" not in (house.out / "comparison.md").read_text()


# The real thing.


@pytest.mark.slow
def test_two_objectives_two_seeds_one_iteration(models: dict[str, Path], tmp_path: Path) -> None:
    sizes = {"tasks_per_iteration": 2, "group_size": 2, "panel_tasks": 4, "play.max_turns": 2}
    sizes |= {"sampling.max_new_tokens": 6, "evaluation.max_new_tokens": 6}
    sizes |= {"prompter.init_args.max_prompt_tokens": 4000, "prompter.init_args.max_teacher_tokens": 6000}
    quickstart, out = str(ROOT / "configs" / "quickstart.yaml"), tmp_path / "out"
    command = [sys.executable, "-m", "sdar_pl", "compare", "--config", quickstart, "--objectives", "grpo,sdar+sibling"]
    command += ["--seeds", "2", "--budget", "1", "--out", str(out), f"--model.policy.model={models['qwen2']}"]
    command += [f"--data.{name}={size}" for name, size in sizes.items()]
    environment = {**os.environ, "SDAR_PL_RUN_FOLDER": "elsewhere"}

    def again() -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        logs = [path.read_text() for path in out.glob("*/*/log.txt")]
        assert done.returncode == 0, [done.stdout, done.stderr, *logs]
        return done.stdout

    assert "kept" not in again()
    cells = {path.parent: json.loads(path.read_text()) for path in out.glob("*/*/cell.json")}
    assert len(cells) == 4
    panels = [cell["panels"] for cell in cells.values()]
    assert {tuple(sorted(panel)) for each in panels for panel in each.values()} == {tuple(sorted(panels[0]["0"]))}
    assert all(len(each["0"]) == 4 and set(each) == {"0", "1"} for each in panels)
    assert all(cell["generated"] > 0 and cell["seconds"] > 0 for cell in cells.values())
    assert (out / "comparison.md").exists()
    assert again().count("kept") == 4
