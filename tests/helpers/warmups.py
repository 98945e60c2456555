"""Small warm-ups through the command line, and files of conversations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.runs import ENVIRONMENT, run_here

CONFIG = """\
trainer: {max_epochs: 2, check_val_every_n_epoch: 2, accelerator: cpu, devices: 1}
model:
  policy: {model: tiny-household, lora: {r: 4, alpha: 8}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 2.0e-3, weight_decay: 0.0, eps: 1.0e-4}}
data:
  demonstrations: {class_path: sdar_pl.warmup.ScriptedPlay}
  environment: {class_path: sdar_pl.environments.household.Household, init_args: {size: tiny, validation_tasks: 6}}
  prompter: {max_prompt_tokens: 1024}
  evaluation: {temperature: 0.4, max_new_tokens: 16}
  play: {max_turns: 4}
  tasks_per_iteration: 8
  steps_per_iteration: 2
  micro_batch_tokens: 800
"""
#: options of a warm-up on a file, without an environment
ON_FILE = ["--data.demonstrations", "sdar_pl.warmup.ChatFile", "--data.environment", "null"]


def arguments(folder: Path, name: str, *options: str) -> list[str]:
    """A small warm-up below ``folder``."""
    config = folder / "warmup.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return ["warmup", "--config", str(config), "--trainer.default_root_dir", str(folder), "--run", name, *options]


def warmup_here(folder: Path, name: str = "run", *options: str, status: int = 0) -> Path:
    """A small warm-up in this process → its folder."""
    return run_here(*arguments(folder, name, *options), status=status)


def warmup(folder: Path, name: str, *options: str) -> Path:
    """A small warm-up in a process of its own → its folder."""
    command = [sys.executable, "-m", "sdar_pl", *arguments(folder, name, *options)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, cwd=folder)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / name


def chat(*contents: str, system: str | None = None) -> dict[str, Any]:
    """One line of a file: user and assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def chat_file(path: Path, lines: Sequence[Any]) -> Path:
    """A file of conversations; a text stands for itself."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path
