"""Model configurations without weights: from a folder, from the local hub cache, from the table below, from the hub.

The table holds the public shapes of the models that configs/ names, so that ``plan`` works without a network.
"""

from __future__ import annotations

from typing import Any

from sdar_pl.errors import UserError
from sdar_pl.modeling.sources import ModelSource, brief, gguf_option

COLUMNS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
#: name → (type, vocabulary, tied embeddings, the columns above); Qwen3 heads are 128 wide
KNOWN: dict[str, tuple[str, int, bool, tuple[int, ...]]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": ("qwen2", 151936, True, (896, 24, 14, 2, 4864)),
    "Qwen/Qwen2.5-1.5B-Instruct": ("qwen2", 151936, True, (1536, 28, 12, 2, 8960)),
    "Qwen/Qwen2.5-3B-Instruct": ("qwen2", 151936, True, (2048, 36, 16, 2, 11008)),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2", 152064, False, (3584, 28, 28, 4, 18944)),
    "Qwen/Qwen3-0.6B": ("qwen3", 151936, True, (1024, 28, 16, 8, 3072)),
    "Qwen/Qwen3-1.7B": ("qwen3", 151936, True, (2048, 28, 16, 8, 6144)),
    "Qwen/Qwen3-4B": ("qwen3", 151936, True, (2560, 36, 32, 8, 9728)),
    "Qwen/Qwen3-8B": ("qwen3", 151936, False, (4096, 36, 32, 8, 12288)),
}


def known(name: str) -> Any:
    """The configuration of a model of the table."""
    from transformers import AutoConfig

    kind, vocabulary, tied, numbers = KNOWN[name]
    heads = {"head_dim": 128} if kind == "qwen3" else {}
    shape = dict(zip(COLUMNS, numbers, strict=True))
    return AutoConfig.for_model(
        kind, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=32768, **shape, **heads
    )


def read_config(source: ModelSource) -> Any:
    """The model's configuration. Raises ``UserError`` for a configuration that cannot be read."""
    from transformers import AutoConfig

    path = source.resolve()
    gguf = gguf_option(source.gguf_file)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, **gguf)
    except (OSError, ValueError):
        if path in KNOWN:
            return known(path)
    try:
        return AutoConfig.from_pretrained(source.located(), **gguf)
    except UserError as error:
        raise UserError(f"{error}, or one of {', '.join(KNOWN)}") from error
    except Exception as error:  # whatever the readers of files raise
        raise UserError(
            f"model.policy.model: cannot read the configuration of {source.name!r} ({brief(error)})"
        ) from error
