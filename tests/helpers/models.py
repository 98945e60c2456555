"""Small random models and tokenizers: real architectures, a real chat template, nothing downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(template: str = TEMPLATE) -> Any:
    """Byte-level BPE with a few merges; ``<|end|>`` ends a turn."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["you are in the room. go to shelf 1, take the mug from shelf 2"] * 9, trainer)
    special = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<action>", "</action>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast


def make_model(folder: Path, family: str, **options: Any) -> None:
    """A random model of a real architecture, with its tokenizer. Wide initial weights: its choices are sharp."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **options,
    }
    torch.manual_seed(0)
    if family == "qwen2":
        model: Any = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=True, **shared))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=False, head_dim=16, **shared))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def shake(policy: Any, seed: int) -> None:
    """Random LoRA matrices, A and B."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def quick_to_end(policy: Any) -> Any:
    """Every tenth token ends a response, so that rows end at different times."""
    policy.causal_lm.generation_config.eos_token_id = list(range(0, 330, 10))
    return policy


def written(policy: Any, folder: Path) -> str:
    """The policy's adapters as a peft folder."""
    from sdar_pl.runtime.adapter_files import write_adapter_folder

    tensors = {name.removeprefix("net."): weights.detach() for name, weights in policy.trained()}
    write_adapter_folder(tensors, vars(policy.lora), policy.source.located(), folder)
    return str(folder)
