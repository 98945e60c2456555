"""What the scripts of the study measure, on small amounts of the real thing."""

from __future__ import annotations

import json
from pathlib import Path

import gap_over_training
import measure_fetch
import measure_gate_variance
import measure_penalty_forms
import panel_figures
import pytest
import study_report
import torch
from _study_results import collect, runs_of
from helpers.builders import a_row

from sdar_pl.errors import UserError
from sdar_pl.policy import LoRA, Policy
from sdar_pl.types import Episode, Observation, Task, Turn


@pytest.mark.slow
def test_the_centred_gate_has_the_same_mean_and_less_variance_on_real_rollouts() -> None:
    torch.manual_seed(0)
    policy = Policy("tiny-household", lora=LoRA())
    policy.build()
    found = measure_gate_variance.measure(policy, episodes=96)
    assert found["ratio"] > 1.05
    assert found["apart"] < 2, "the mean gradients differ by more than chance"


def test_the_gap_is_a_mean_over_finished_seeds(tmp_path: Path) -> None:
    for name, seed, gaps in (
        ("sdar", 0, [-1.0, -0.5]),
        ("sdar", 1, [-2.0, -1.5]),
        ("sdar", 2, [-9.0]),
        ("grpo", 0, []),
    ):
        run = tmp_path / name / f"seed-{seed}" / "run"
        run.mkdir(parents=True)
        rows = "".join(f"{step},{gap}\n" for step, gap in enumerate(gaps, 1))
        (run / "metrics.csv").write_text(f"step,gap/mean\n0,\n{rows}")
        if seed < 2:
            (run.parent / "cell.json").write_text(json.dumps({"objective": f"{name}(coefficient=1)"}))
    lines = gap_over_training.table(tmp_path, "gap/mean", 1).splitlines()
    assert lines[0] == "| objective | seeds | 1 | 2 |"
    assert lines[2:] == ["| sdar(coefficient=1) | 2 | -1.500 | -1.000 |"]


def test_panels_are_compared_task_by_task(tmp_path: Path) -> None:
    """Two methods, two seeds (one of the second), two games: after training the second needs a step less in each."""
    (tmp_path / "comparison.csv").write_text("objective\ngrpo\nmine\n")
    for name, seed, steps in (("grpo", 0, (4, 2)), ("grpo", 1, (6, 4)), ("mine", 1, (5, 3))):
        run = tmp_path / name / f"seed-{seed}" / "run"
        run.mkdir(parents=True)
        (run.parent / "cell.json").write_text(json.dumps({"objective": name, "seed": seed}))
        panels = [(0, "validation", "a", 9), (0, "validation", "b", 9), (4, "train", "a", 1)]
        panels += [(8, "validation", game, count) for game, count in zip("ab", steps, strict=True)]
        lines = []
        for iteration, split, game, count in panels:
            turns = [{"action": "fetch mug" if k == 1 else "look", "observation": ""} for k in range(count)]
            line = {"iteration": iteration, "split": split, "task": game, "success": count < 4, "turns": turns}
            lines.append(json.dumps({**line, "kind": f"kind {game}"}) + "\n")
        (run / "episodes.jsonl").write_text("".join(lines))
        (run / "episodes.validate.jsonl").write_text(lines[-1].replace('"iteration": 8', '"iteration": 9'))
    chosen = panel_figures.figures("fetch", evidence=False)
    rows = panel_figures.table(panel_figures.read(tmp_path, chosen), chosen).splitlines()
    assert rows[0] == "| objective |  | seeds | success, % | steps | with a call, % |"
    cells = [row.strip("| ").split(" | ") for row in rows[2:]]
    starts = [[*cell[:3], *(word.split()[0] for word in cell[3:])] for cell in cells]
    assert starts == [
        ["grpo", "before", "2", "0.0", "9.00", "100.0"],
        ["grpo", "after", "2", "25.0", "4.00", "100.0"],
        ["mine", "before", "1", "0.0", "9.00", "100.0"],
        ["mine", "after", "1", "50.0", "4.00", "100.0"],
        ["mine", "− grpo", "1", "+50.0", "-1.00", "+0.0"],
    ]
    assert cells[-1][4] == "-1.00 [-1.00, -1.00]"
    of_b = panel_figures.read(tmp_path, chosen, "kind b")
    assert {task for seeds in of_b.values() for panels in seeds.values() for panel in panels for task in panel} == {"b"}
    with pytest.raises(UserError, match=r"^--kind: no panel of .* of the kind 'kind c'$"):
        panel_figures.read(tmp_path, chosen, "kind c")


def test_evidence_is_the_environment_s(tmp_path: Path) -> None:
    (recall, factor) = panel_figures.figures(None, evidence=True)["evidence recall, %"]
    world = panel_figures.SearchQA()
    task = world.tasks("validation")[0]
    session, observations = world.session(task), [""]
    session.reset()
    for action in world.expert_plan(task):
        observations.append(session.step(action).text)
    line = {"task": task.id, "turns": [{"observation": text} for text in observations]}
    assert (recall(line), recall({**line, "turns": []}), factor) == (1, 0, 100)


def test_the_helper_saves_steps_where_the_label_says_so() -> None:
    for profits, pairs in measure_fetch.measure(40).items():
        assert (sum(helped - alone for helped, alone in pairs) < 0) == profits


def test_the_forms_of_the_penalty_differ_where_all_fail() -> None:
    """Two failed episodes of two turns, one turn invalid: what each form gives the guilty turn and the others."""

    def episode(index: int, *penalties: float) -> Episode:
        turns = [Turn([1], [2], [-0.1], "", "look", not p, Observation(""), penalty=p) for p in penalties]
        return Episode(Task("a", "find", ""), 0, index, Observation(""), turns=turns)

    episodes = [episode(0, 0.0, 0.1), episode(1, 0.0, 0.0)]
    rows = [a_row(number, 6, [(1, 2), (3, 4)]) for number in range(2)]
    measure_penalty_forms.by_row(rows, episodes, None)
    assert [*rows[0].advantages, *rows[1].advantages] == pytest.approx([0.5, -1.5, 0.5, 0.5], abs=1e-4)
    measure_penalty_forms.by_episode(rows, episodes, None)
    assert [*rows[0].advantages, *rows[1].advantages] == pytest.approx([-0.7071, -0.7071, 0.7071, 0.7071], abs=1e-4)


@pytest.mark.slow
def test_a_policy_is_taught_to_forget_the_closing_tag(tmp_path: Path) -> None:
    measure_penalty_forms.careless(tmp_path / "model", share=0.5, episodes=48, passes=6)
    figures = measure_penalty_forms.train(tmp_path / "model", "row", 0, 1, tmp_path / "out")
    assert figures["train/valid_action"] < 0.95


GAMES = {"seen-1": "valid_seen", "seen-2": "valid_seen", "unseen-1": "valid_unseen"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The work folder of a study: a teacher, two seeds of GRPO, and one of SDAR that was stopped in its last panel."""
    panel = tmp_path / "games/json_2.1.1"
    for game, split in GAMES.items():
        (panel / split / game).mkdir(parents=True)

    def lines(panels: dict[int, str]) -> str:
        return "".join(
            json.dumps({"iteration": step, "split": "validation", "task": f"panel/{game}", "success": digit == "1"})
            + "\n"
            for step, digits in panels.items()
            for game, digit in zip(GAMES, digits, strict=False)
        )

    def run(name: str, panels: dict[int, str], file: str = "episodes.jsonl") -> None:
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        (folder / file).write_text(lines(panels) + '{"iteration": 9, "split": "validation", "ta')
        rows = "".join(f"{step},2.5,100,{step / 10}\n" for step in (1, 2, 4))
        (folder / "metrics.csv").write_text(
            "step,time/rollout_s,rollout/generated_tokens,val/success\n0,,,0.0\n" + rows
        )

    run("warmup", {})
    run("teacher", {0: "111"}, "episodes.validate.jsonl")
    for name, panels in {
        "grpo/seed-0": {0: "000", 2: "100", 4: "110"},
        "grpo/seed-1": {0: "000", 2: "100", 4: "111"},
        "sdar/seed-0": {0: "000", 2: "110", 4: "11"},
    }.items():
        run(name, panels)
        (tmp_path / name / "cell.json").write_text(json.dumps({"objective": name.split("/")[0]}))
    return tmp_path


def test_results_are_those_of_whole_panels(study: Path) -> None:
    found = json.loads(json.dumps(collect(study)))  # as it is read from the file
    assert found["tasks"] == ["valid_seen/seen-1", "valid_seen/seen-2", "valid_unseen/unseen-1"]
    assert found["teacher"] == "111"
    assert [run["panels"] for run in found["runs"]] == [
        {"0": "000", "2": "100", "4": "110"},
        {"0": "000", "2": "100", "4": "111"},
        {"0": "000", "2": "110"},
    ]


def test_methods_are_compared_at_an_iteration_that_each_has_reached(study: Path) -> None:
    runs, last, short = runs_of(json.loads(json.dumps(collect(study))), "valid_seen")
    assert (last, short) == (2, [])
    assert [(run.objective, run.seed, sorted(run.panels), sum(run.panels[2].values())) for run in runs] == [
        ("grpo", 0, [0, 2], 1.0),
        ("grpo", 1, [0, 2], 1.0),
        ("sdar", 0, [0, 2], 2.0),
    ]
    assert {(run.seconds, run.generated) for run in runs} == {(5.0, 200.0)}


def test_the_section_says_how_every_step_ended(study: Path) -> None:
    steps = {"warmup": {"status": 0, "seconds": 9.0}, "sdar/seed-0": {"status": 1, "seconds": 3.0, "last_line": "Oops"}}
    facts = {"steps": steps, "arguments": ["--jobs", "3"], "machine": {"cpu": "a CPU"}}
    text = study_report.section({**json.loads(json.dumps(collect(study))), **facts})
    assert "| 4 | – | 40.0 |" in text
    assert "**valid_seen, 2 games in rooms like those of training, after 2 iterations.** The teacher" in text
    assert "| sdar/seed-0 | 3 s | failed: Oops |" in text
    assert "study_pretrained.py --jobs 3" in text
