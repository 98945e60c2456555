"""Run folders for tests of the report, written as ``fit`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("look", "heat")
#: after a token's text: what a page must not read as HTML, a control token, and a reversed direction of writing
HOSTILE = (
    "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 1'><|im_end|>"
    "\u202egnitirw\u202c \x1b[2J\0 <!-- ]]> ${window.owned = 1} "
)


def turn(number: int, trained: bool, text: str = "") -> dict[str, Any]:
    """A turn of three tokens; those of training have advantage, gap and gate."""
    records = {"advantage": -0.5, "gap": [0.0, -1.25, 0.5], "gate": [0.5, 0.002, 0.924]} if trained else {}
    said = {"text": f"go to shelf {number}", "action": f"go to shelf {number}", "valid": number != 1}
    seen = {"observation": f"You see nothing.{text}", "reward": 0.0}
    return {**said, **seen, "tokens": [300, 301 + number, 302], "logprobs": [0.0, -1.5, -0.25], **records}


def episode(iteration: int, split: str, number: int, success: bool, text: str = "", turns: int = 2) -> dict[str, Any]:
    trained = split == "train"
    return {
        **{"iteration": iteration, "split": split, "task": f"{split}/{number}", "kind": KINDS[number % 2] + text},
        **{"text": f"find mug {number}{text}", "group": number, "index": 0, "success": success},
        **{"reward": 10.0 * success, "penalty": 0.0, "failed": "", "overflow": False},
        **{"context": f"Open the fridge first.{text}" if trained else "", "first": f"You are in a kitchen.{text}"},
        "turns": [turn(place, trained, text) for place in range(turns)],
    }


def write_run(folder: Path, seed: int = 0, objective: str = "SDAR", train: int = 4, text: str = "") -> Path:
    """A run of two iterations: a panel of 8 before and after, ``train`` episodes in each."""
    folder.mkdir(parents=True)
    settings = {"class_path": f"sdar_pl.objectives.{objective}", "init_args": {"beta": 5.0}}
    config = {
        **{"seed_everything": seed, "trainer": {"default_root_dir": str(folder)}},
        "model": {"policy": {"init_args": {"model": "tiny-household", "gguf_file": None}}, "objective": settings},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    columns = "step,gap/negative_fraction,gate/mean,time/rollout_s,time/update_s,val/success,val/teacher_success"
    rows = "0,,,,,0.25,0.9\n1,0.2,0.5,3.0,4.0,,\n2,0.1,0.52,3.0,4.0,0.75,0.9\n"
    (folder / "metrics.csv").write_text(f"{columns}\n{rows}")
    lines = [episode(0, "validation", n, n < 2, text) for n in range(8)]
    lines += [episode(i, "train", n, n % 2 == 0, text) for i in (1, 2) for n in range(train)]
    lines += [episode(2, "validation", n, n < 6, text) for n in range(8)]
    with (folder / "episodes.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder
