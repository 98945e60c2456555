"""A folder in which ``compare`` runs with a fake ``fit`` that leaves a real run's files in no time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from helpers.builders import an_episode
from sdar_pl.callbacks.episode_log import row_of
from sdar_pl.commands.compare import main
from sdar_pl.runtime.metrics_csv import MetricsCSV
from sdar_pl.types import Observation, Task

#: Instead of training it copies the files of ``write_run``. ``plan.json`` beside it tells it to fail or to hang.
FAKE_FIT = """
import json, os, pathlib, shutil, sys, time
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
here, place = pathlib.Path(__file__).parent, pathlib.Path(given["trainer.default_root_dir"])
call = f"{place.parent.name} {given['seed_everything']}"
plan = json.loads((here / "plan.json").read_text()).get(call, "")
assert "SDAR_PL_RUN_FOLDER" not in os.environ
if "print_config" in given:
    sys.exit("error: Option 'coeficient' is not accepted" if plan == "refuse" else 0)
with open(here / "calls.txt", "a") as calls:
    calls.write(call + "\\n")
folder = place / given["run"]
assert not folder.exists()
folder.mkdir(parents=True)
print("iteration 1/2 · working", flush=True)
if plan == "fail":
    sys.exit("error: data.group_size: no good")
if plan == "hang":
    time.sleep(600)
name = place.parent.name if plan != "silent" else "silent"
template = here / "runs" / name
shutil.copytree(template if template.exists() else here / "runs" / "other", folder, dirs_exist_ok=True)
(folder / "summary.json").write_text(json.dumps({"seconds": 60 + int(given["seed_everything"])}))
"""


def write_run(folder: Path, rate: float) -> None:
    """What a run of two ranks writes: panels of 16 tasks at iterations 0, 1 and 2, success from 25 % to ``rate``."""
    rows = [row_of(an_episode(), 1, "train", 0)]
    for iteration, share in ((0, 0.25), (1, 0.25 + rate / 4), (2, rate)):
        for k in range(16):
            episode = replace(an_episode(), task=Task(f"t{k}", "kind", "text"))
            episode.turns[-1].observation = Observation("", success=k < 16 * share, done=True)
            rows.append(row_of(episode, iteration, "validation"))
    write_rows(folder / "episodes.jsonl", rows[::2])
    write_rows(folder / "episodes.rank1.jsonl", rows[1::2])
    write_rows(folder / "episodes.validate.jsonl", [{**rows[1], "iteration": 9}])  # of a later ``validate``
    write_metrics(folder)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_metrics(folder: Path) -> None:
    """metrics.csv with 300 generated tokens in two iterations, and a row of the panel before training."""
    logger = MetricsCSV(folder)
    logger.log_metrics({"val/success": 0.25}, step=0)
    for step, tokens in ((1, 100.0), (2, 200.0)):
        logger.log_metrics({"rollout/generated_tokens": tokens}, step=step)
    logger.save()


class House:
    """A folder with configs, the fake ``fit`` and the log of its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.parts = folder / "configs" / "objectives"
        self.parts.mkdir(parents=True)
        (folder / "configs" / "contexts").mkdir()
        self.recipe = folder / "configs" / "base.yaml"
        self.recipe.write_text("seed_everything: 3\ntrainer: {max_epochs: 2}\n")
        for name in ("grpo", "sdar"):
            (self.parts / f"{name}.yaml").write_text(f"model: {{objective: {name}}}\n")
        (folder / "configs" / "contexts" / "random_skills.yaml").write_text("data: {context: x}\n")
        (folder / "fit.py").write_text(FAKE_FIT)
        for name, rate in (("grpo", 0.25), ("sdar", 0.75), ("other", 0.5)):
            write_run(folder / "runs" / name, rate)
        write_metrics(folder / "runs" / "silent")
        self.plan({})

    def plan(self, plan: dict[str, str]) -> None:
        """What the fake does for a method's folder and a seed: "fail", "hang", "silent" (no episodes), "refuse"."""
        (self.folder / "plan.json").write_text(json.dumps(plan))

    @property
    def fit(self) -> list[str]:
        return [sys.executable, str(self.folder / "fit.py")]

    def arguments(self, *more: str, objectives: str = "grpo,sdar", seeds: int = 2) -> list[str]:
        recipe = ["--config", str(self.recipe), "--objectives", objectives]
        return [*recipe, "--seeds", str(seeds), "--out", str(self.out), *more]

    def run(self, *more: str, objectives: str = "grpo,sdar", seeds: int = 2) -> int:
        return main(self.arguments(*more, objectives=objectives, seeds=seeds), self.fit)

    def calls(self) -> list[str]:
        """The runs since the last call of this method, as "folder seed"."""
        path = self.folder / "calls.txt"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return calls
