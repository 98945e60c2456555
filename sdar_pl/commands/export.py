"""``python -m sdar_pl export``: a checkpoint as files that other tools load.

    python -m sdar_pl export --ckpt_path runs/quickstart/checkpoints/best.ckpt --out my-adapter
    python -m sdar_pl export --ckpt_path runs/quickstart/checkpoints/best.ckpt --out my-model --merge

The first writes a peft adapter folder (a run keeps one in ``adapter/`` itself), the second a whole transformers model
with its tokenizer, for vLLM, llama.cpp and the like.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT, checkpoint_problem
from sdar_pl.runtime.messages import PlainParser

#: what precedes peft's own names in a checkpoint
PREFIX = "policy.net."


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    parser = PlainParser(prog="python -m sdar_pl export", description="A checkpoint as files that other tools load.")
    parser.add_argument("--ckpt_path", required=True, type=Path, help="the checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write; it must not exist or be empty")
    parser.add_argument("--merge", action="store_true", help="a whole model with the adapters merged in")
    options = parser.parse_args(list(arguments))
    wrong = checkpoint_problem(options.ckpt_path)
    if wrong:
        raise UserError(f"--ckpt_path: {options.ckpt_path}: {wrong}")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out: {options.out} is there already; name a new folder")
    try:
        (write_model if options.merge else write_adapter)(options.ckpt_path, options.out)
    except OSError as error:
        raise UserError(f"--out: cannot write to {options.out} ({error.strerror or error})") from error
    print(f"wrote {options.out}")
    return 0


def write_adapter(checkpoint: Path, folder: Path) -> None:
    """The adapters of a checkpoint as a peft folder, in place of what is there. Raises ``UserError`` if it has none."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    known = read(checkpoint)
    lora, model = known[RUN_FINGERPRINT]["lora"], known[RUN_FINGERPRINT]["model"]["name"]
    if lora is None:
        raise UserError(f"--ckpt_path: {checkpoint} holds a whole model, no adapters; add --merge to export it")
    tensors = {
        name.removeprefix(PREFIX).replace(".default.weight", ".weight"): tensor.contiguous()
        for name, tensor in known["state_dict"].items()
    }
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=sorted({re.sub(r"\.lora_[AB]\.weight$", "", name).rsplit(".", 1)[-1] for name in tensors}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model,
        inference_mode=True,
    )

    def write(into: Path) -> None:
        config.save_pretrained(str(into))
        file = into / "adapter_model.safetensors"
        save_file(tensors, str(file), metadata={"format": "pt"})
        file.chmod(0o644)

    replaced(folder, write)


def write_model(checkpoint: Path, folder: Path) -> None:
    """A whole transformers model in the base model's own precision, and its tokenizer."""
    from transformers import AutoConfig

    from sdar_pl.policy import LoRA, Policy

    known = read(checkpoint)
    source, lora = known[RUN_FINGERPRINT]["model"], known[RUN_FINGERPRINT]["lora"]
    if source["random_weights"]:
        raise UserError("--merge: this run's base model has random weights, which are not kept; export the adapters")
    policy = Policy(source["name"], lora=LoRA(**lora) if lora else None, gguf_file=source["gguf_file"])
    path = policy.source.located()
    if policy.source.gguf_file is None and getattr(AutoConfig.from_pretrained(path), "dtype", None) == torch.bfloat16:
        policy.dtype_name = "bfloat16"
    policy.build()
    if policy.fingerprint != known[RUN_FINGERPRINT]["fingerprint"]:
        raise UserError(f"--merge: the model {source['name']!r} is not the one that this checkpoint was made with")
    policy.load_state_dict({k.removeprefix("policy."): v for k, v in known["state_dict"].items()}, strict=False)
    net = policy.net.merge_and_unload() if lora else policy.net
    net.config.use_cache = True
    if policy.source.gguf_file:  # it came from a quantised file, and is none now
        net.hf_quantizer = None
        if hasattr(net.config, "quantization_config"):
            del net.config.quantization_config

    def write(into: Path) -> None:
        net.save_pretrained(str(into))
        policy.tokenizer.save_pretrained(str(into))

    replaced(folder, write)


def read(checkpoint: Path) -> dict[str, Any]:
    known: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return known


def replaced(folder: Path, write: Any) -> None:
    """Let ``write`` fill a folder beside ``folder``, and put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(partial)
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
