"""Sources of a policy's weights and tokenizer, and the models that are refused.

Left out: downloads (transformers does them for hub names).
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdar_pl.errors import UserError

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class ModelSource:
    """Source of weights: a folder, a hub name or the name of a packaged model.

    ``gguf_file`` reads a GGUF file inside the folder. ``random_weights`` builds the architecture from its
    configuration alone (benchmarks and tests).
    """

    name: str
    gguf_file: str | None = None
    random_weights: bool = False

    def resolve(self) -> str:
        """The folder or hub name. Raises ``UserError`` where a folder is meant and is missing."""
        if self.name in packaged_models():
            return str(ASSETS / self.name)
        path = Path(self.name).expanduser()
        if self.name and os.path.isdir(path):
            if not any((path / file).exists() for file in ("config.json", self.gguf_file or "config.json")):
                raise UserError(f"model.policy.model: {path} holds no config.json; name a transformers model folder")
            return str(path)
        looks_local = self.name.startswith((".", "/", "~")) or self.name.count("/") != 1
        if looks_local:
            raise UserError(
                f"model.policy.model: no folder {self.name!r}; name a model folder, a hub name (owner/name) or one of "
                f"the packaged models ({', '.join(packaged_models())})"
            )
        return self.name

    def located(self) -> str:
        """``resolve``, with a hub name for which the hub cannot be asked made the folder of its cached copy. Raises
        ``UserError`` where there is none, or the hub knows no such model."""
        path = self.resolve()
        return path if os.path.isdir(path) else on_hub(path)


@functools.cache
def on_hub(name: str) -> str:
    """A model's name if the hub answers, else the folder of the cached copy.

    The hub is asked once: transformers retries for every file, which without a network takes a silent minute.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
        return name
    except Exception as refusal:  # every layer of the hub's client has errors of its own
        try:
            return snapshot_download(name, local_files_only=True)
        except Exception as error:
            if isinstance(refusal, RepositoryNotFoundError | HFValidationError):
                raise UserError(
                    f"model.policy.model: the hub has no model {name!r} that you may read; check the name, or log in "
                    "with `hf auth login`"
                ) from error
            raise UserError(
                f"model.policy.model: the hub cannot be reached ({brief(refusal)}), and {name!r} is not in "
                f"{constants.HF_HUB_CACHE}; run `hf download {name}` where there is a network, or name a model folder"
            ) from error


def packaged_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def load_tokenizer(path: str, gguf_file: str | None = None) -> Any:
    """The tokenizer of a model folder or hub name, exactly as its tokenizer.json has it.

    ``AutoTokenizer`` rebuilds a generic tokenizer beside a Qwen2 configuration as Qwen2's own, which splits text
    differently: a model trained with the generic tokenizer would read tokens it was never trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    named = get_tokenizer_config(path).get("tokenizer_class")
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(path, **gguf_option(gguf_file))


def refuse_scaled_logits(config: Any) -> None:
    """Refuse models that change their logits after the output layer (Gemma 2 caps, Cohere scales them)."""
    for name, neutral in {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}.items():
        value = getattr(config, name, neutral)
        if value not in (neutral, None):
            raise UserError(f"model.policy.model: its {name} ({value}) is not supported; use a model without it")


def gguf_option(file: str | None) -> dict[str, str]:
    return {"gguf_file": file} if file else {}


def brief(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}…"
