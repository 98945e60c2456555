"""compare: which cells run and which are kept, failures, bad input. ``fit`` is a fake but for the last test."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.comparisons import House

from sdar_pl.cli import main as command_line
from sdar_pl.commands.compare import cells_to_run, main, parse
from sdar_pl.errors import UserError
from sdar_pl.runtime.run_lock import locked


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
    house.recipe.write_text("# the same\n" + house.recipe.read_text())
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


def test_what_fit_gets(house: House, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {}\n")
    names = f"grpo,sdar(coefficient=0.2)+random_skills,{mine}"
    assert house.run("--budget", "5", "--data.group_size", "4", objectives=names, seeds=1) == 0
    assert house.calls() == ["grpo 3", "sdar_coefficient=0.2+random_skills 3", "mine 3"]
    assert (house.out / "sdar_coefficient=0.2+random_skills" / "seed-3" / "cell.json").exists()
    options, rest = parse(house.arguments("--budget", "5", "--data.group_size", "4", objectives=names, seeds=1))
    assert cells_to_run(options, rest)[1].arguments == (
        f"--config={house.recipe}",
        f"--config={house.parts / 'sdar.yaml'}",
        "--model.objective.init_args.coefficient=0.2",
        f"--config={house.parts.parent / 'contexts' / 'random_skills.yaml'}",
        *("--data.group_size", "4", "--trainer.max_epochs=5", "--seed_everything=3"),
        f"--trainer.default_root_dir={house.out / 'sdar_coefficient=0.2+random_skills' / 'seed-3'}",
        "--run=run",
    )
    assert house.run("--seed_everything", "11", objectives="grpo", seeds=1) == 0
    assert house.calls() == ["grpo 11"]


def test_another_value_is_another_cell(house: House) -> None:
    assert house.run(objectives="grpo,sdar(coefficient=0.2)", seeds=1) == 0
    house.calls()
    assert house.run(objectives="grpo,sdar(coefficient=0.2),sdar(coefficient=0.3)", seeds=1) == 0
    assert house.calls() == ["sdar_coefficient=0.3 3"]
    results = json.loads((house.out / "sdar_coefficient=0.3" / "seed-3" / "cell.json").read_text())
    assert results["objective"] == "sdar(coefficient=0.3)"


def test_overrides_that_fit_refuses_end_the_command_before_any_run(house: House) -> None:
    house.plan({"sdar_coeficient=1 3": "refuse"})
    with pytest.raises(UserError, match=r"^--objectives: sdar\(coeficient=1\): Option 'coeficient' is not accepted$"):
        house.run(objectives="grpo,sdar(coeficient=1)")
    assert house.calls() == []
    assert not house.out.exists()


def test_files_of_the_run(house: House) -> None:
    assert house.run(seeds=1) == 0
    results = json.loads((house.out / "sdar" / "seed-3" / "cell.json").read_text())
    assert list(results["panels"]) == ["0", "1", "2"]
    assert [sum(panel.values()) for panel in results["panels"].values()] == [4, 7, 12]
    assert {len(panel) for panel in results["panels"].values()} == {16}  # of both ranks
    assert (results["seconds"], results["generated"]) == (63, 300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": "grpo,sadr"}, "no 'sadr' beside .*give a file or one of grpo, random_skills, sdar"),
        ({"objectives": "grpo,"}, "no ''"),
        ({"objectives": "grpo,grpo"}, "'grpo' is named twice"),
        ({"objectives": "absent.yaml"}, "no file absent.yaml"),
        ({"seeds": 0}, "--seeds: 0; must be ≥ 1"),
        ({"more": ["--seeds", "few"]}, "argument --seeds"),
        ({"more": ["--budget", "0"]}, "--budget: 0; must be ≥ 1"),
        ({"more": ["--config", "nowhere.yaml"]}, "--config nowhere.yaml: No such file"),
        ({"more": ["--config", "bad.yaml"]}, "--config bad.yaml: not valid YAML"),
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


def test_a_folder_that_another_comparison_writes_to(house: House) -> None:
    house.out.mkdir()
    with locked(house.out), pytest.raises(UserError, match=rf"--out: {house.out} is in use by process {os.getpid()} "):
        house.run()
    assert not house.calls()


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
