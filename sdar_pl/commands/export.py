"""``python -m sdar_pl export``: a checkpoint as files that other tools load.

    python -m sdar_pl export --ckpt_path runs/quickstart/checkpoints/best.ckpt --out my-adapter
    python -m sdar_pl export --ckpt_path runs/quickstart/checkpoints/best.ckpt --out my-model --merge

The first writes a peft adapter folder (a run keeps one in ``adapter/`` itself), the second a whole transformers model
with its tokenizer, for vLLM, llama.cpp and the like. README.md in either is its model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sdar_pl.errors import UserError
from sdar_pl.reports.model_card import model_card
from sdar_pl.reports.run_files import read_run
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT, checkpoint_problem, read_checkpoint, write_adapter
from sdar_pl.runtime.files import replacing
from sdar_pl.runtime.long_work import hide_bars_of_loading
from sdar_pl.runtime.messages import PlainParser


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status. Raises ``UserError``."""
    parser = PlainParser(prog="python -m sdar_pl export", description="A checkpoint as files that other tools load.")
    parser.add_argument("--ckpt_path", required=True, type=Path, help="the checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write; it must not exist or be empty")
    parser.add_argument("--merge", action="store_true", help="a whole model with the adapters merged in")
    options = parser.parse_args(list(arguments))
    problem = checkpoint_problem(options.ckpt_path)
    if problem:
        raise UserError(f"--ckpt_path: {options.ckpt_path}: {problem}; name another checkpoint")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out: {options.out} is there already; name a new folder")
    try:
        (write_model if options.merge else write_adapter)(options.ckpt_path, options.out)
        write_card(options.ckpt_path, options.out, options.merge)
    except OSError as error:
        raise UserError(f"--out: cannot write to {options.out} ({error.strerror or error})") from error
    print(f"wrote {options.out}")
    return 0


def write_card(checkpoint: Path, folder: Path, merged: bool) -> None:
    """Write the model card of an exported checkpoint, with the figures of its run where it stands in a run folder."""
    run, named = None, checkpoint.resolve().parent
    if named.name == "checkpoints" and (named.parent / "metrics.csv").is_file():
        run = read_run(named.parent, 0)
    card = model_card(read_checkpoint(checkpoint), run, folder.name, merged)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_model(checkpoint: Path, folder: Path) -> None:
    """Write a whole transformers model, adapters merged in, in the base model's own precision, and its tokenizer."""
    from transformers import AutoConfig

    from sdar_pl.policy import LoRA, Policy

    hide_bars_of_loading()
    content = read_checkpoint(checkpoint)
    source, lora = content[RUN_FINGERPRINT]["model"], content[RUN_FINGERPRINT]["lora"]
    if source["random_weights"]:
        raise UserError("--merge: this run's base model has random weights, which are not kept; export the adapters")
    policy = Policy(source["name"], lora=LoRA(**lora) if lora else None, gguf_file=source["gguf_file"])
    path = policy.source.located()
    if policy.source.gguf_file is None and getattr(AutoConfig.from_pretrained(path), "dtype", None) == torch.bfloat16:
        policy.base_dtype = torch.bfloat16
    policy.build()
    if policy.fingerprint != content[RUN_FINGERPRINT]["fingerprint"]:
        raise UserError(f"--merge: the model {source['name']!r} is not the one that this checkpoint was made with")
    policy.load_state_dict({k.removeprefix("policy."): v for k, v in content["state_dict"].items()}, strict=False)
    net = policy.net.merge_and_unload() if lora else policy.net
    net.config.use_cache = True
    if policy.source.gguf_file:  # read from a quantised file; the weights are not quantised any more
        net.hf_quantizer = None
        if hasattr(net.config, "quantization_config"):
            del net.config.quantization_config

    with replacing(folder) as partial:
        net.save_pretrained(str(partial))
        policy.tokenizer.save_pretrained(str(partial))
