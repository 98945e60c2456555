"""The model card of an export: what was trained how and on what, its measured success, licence, and how to load it.

Written as README.md in the format of model hubs. All of it is read from the checkpoint and its run folder; what is not
there is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdar_pl import __version__
from sdar_pl.modeling.sources import packaged_models
from sdar_pl.reports.run_files import RunFiles
from sdar_pl.reports.statistics import paired_difference, wilson
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT
from sdar_pl.runtime.words import markdown_cell, shown

#: beginnings of the fingerprint's keys → heading of their table
PARTS = {
    "Method": ("model.objective", "model.teacher", "model.correction", "data.advantage", "data.context"),
    "Data": ("data.environment", "data.prompter", "data.play", "data.sampling", "data.evaluation"),
}
LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

base = {base}
tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {folder})
"""
LOAD_MODEL = """\
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast.from_pretrained({folder})
model = AutoModelForCausalLM.from_pretrained({folder})
"""
GENERATE = """
chat = [{"role": "user", "content": "…"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
tokens = model.generate(**inputs, do_sample=True, temperature=0.4, max_new_tokens=64)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def model_card(checkpoint: Mapping[str, Any], run: RunFiles | None, folder: str, merged: bool) -> str:
    """The text of README.md.

    Args:
        checkpoint: the content of the exported checkpoint.
        run: its run folder; None where the checkpoint stands elsewhere.
        folder: name of the exported folder, as the code to load it names it.
        merged: whether the folder holds a whole model, or adapters.
    """
    fingerprint = checkpoint[RUN_FINGERPRINT]
    base, settings = fingerprint["model"]["name"], fingerprint["settings"]
    iterations = iterations_of(checkpoint)
    made = "The whole model, adapters merged in" if merged and fingerprint["lora"] else "The whole model"
    lines = [
        *header(base, merged),
        f"# {shown(folder, 200)}",
        "",
        f"{made if merged else 'LoRA adapters'} of `{shown(base, 200)}` after {iterations} iterations of training on "
        f"multi-turn episodes with sdar_pl {__version__} (arXiv 2605.15155). The model acts without skills in its "
        "prompt.",
        "",
        *success(run, iterations),
    ]
    for title, beginnings in PARTS.items():
        chosen = {key: value for key, value in settings.items() if key.startswith(beginnings)}
        lines += [f"## {title}", "", *table(chosen), ""]
    others = {k: v for k, v in settings.items() if not k.startswith(tuple(sum(PARTS.values(), ())))}
    adapters = {f"lora.{key}": value for key, value in (fingerprint["lora"] or {}).items()}
    lines += ["## Training", "", *table({"iterations": iterations, **adapters, **others}), ""]
    code = (LOAD_MODEL if merged else LOAD_ADAPTER).format(folder=quoted(folder), base=base_of(base)) + GENERATE
    lines += ["## How to load it", "", "```python", code.rstrip(), "```", ""]
    if base in packaged_models() and not merged:
        lines[-1:-1] = ["", "The base model is part of sdar_pl: `pip install sdar_pl`."]
    return "\n".join([*lines, "## Licence", "", licence(base), ""])


def iterations_of(checkpoint: Mapping[str, Any]) -> int:
    """The number of iterations that have ended."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def header(base: str, merged: bool) -> list[str]:
    """The metadata that model hubs read. A base model's licence is known of the packaged ones alone."""
    own = base in packaged_models()
    named = [] if own or Path(base).exists() else [f"base_model: {json.dumps(base)}"]
    licence_lines = ["license: apache-2.0"] if own else []
    library = "transformers" if merged else "peft"
    tags = "tags: [reinforcement-learning, agents, sdar]"
    return ["---", f"library_name: {library}", "pipeline_tag: text-generation", *named, *licence_lines, tags, "---", ""]


def success(run: RunFiles | None, iterations: int) -> list[str]:
    """The success on the panel after ``iterations``, with its interval, and the change since the untrained policy."""
    panel = run.panels.get(iterations) if run else None
    if run is None or not panel:
        return ["The run's record has no panel of this iteration.", ""]
    wins, tasks = sum(won for _, won in panel.values()), len(panel)
    rate = wilson(wins, tasks)
    lines = ["## Success", "", f"On the panel of {tasks} validation tasks that were never trained on: {share(*rate)}."]
    before = run.panels.get(0)
    if before and before.keys() == panel.keys() and iterations:
        names = sorted(panel)
        change = paired_difference([before[name][1] for name in names], [panel[name][1] for name in names])
        first = wilson(sum(won for _, won in before.values()), tasks)
        lines[-1] += f" Before training: {share(*first)}; difference {share(*change, sign='+')}."
    lines += ["", "| kind of task | success | tasks |", "|---|--:|--:|"]
    for kind in sorted({kind for kind, _ in panel.values()}):
        results = [won for one, won in panel.values() if one == kind]
        lines.append(f"| {markdown_cell(kind)} | {share(*wilson(sum(results), len(results)))} | {len(results)} |")
    return [*lines, "", "Intervals (95 %): Wilson's, of the difference a paired bootstrap over the tasks.", ""]


def share(mean: float, low: float, high: float, sign: str = "") -> str:
    """``85.4 % (77.0 to 91.1)``."""
    return f"{100 * mean:{sign}.1f} % ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def table(settings: Mapping[str, Any]) -> list[str]:
    """Settings by their keys in YAML."""
    rows = [f"| {markdown_cell(key)} | {markdown_cell(str(value))} |" for key, value in settings.items()]
    return ["| setting | value |", "|---|---|", *rows]


def base_of(base: str) -> str:
    """Python for the base model's folder or hub name."""
    if base not in packaged_models():
        return quoted(base)
    return f'str(__import__("sdar_pl.policy").policy.ASSETS / {quoted(base)})'


def quoted(text: str) -> str:
    """A text as a Python literal."""
    return json.dumps(text)


def licence(base: str) -> str:
    if base in packaged_models():
        return "Apache-2.0, as the base model and sdar_pl."
    return f"That of the base model, `{shown(base, 200)}`: see its model card. sdar_pl itself is Apache-2.0."
