"""A small configuration to plan: rows of known length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROMPT, RESPONSE, ROWS = 448, 64, 4


def options(folder: Path, **policy: Any) -> dict[str, Any]:
    """For ``planned``: rows of 448 + 64 tokens, four in a micro-batch, 32 in a rollout."""
    return {
        "model__policy__model": folder,
        **{f"model__policy__{name}": value for name, value in policy.items()},
        "data__micro_batch_tokens": ROWS * (PROMPT + RESPONSE),
        "data__prompter__history": "windowed",
        "data__prompter__max_prompt_tokens": PROMPT,
        "data__sampling__max_new_tokens": RESPONSE,
        "data__engine__max_rows": 32,
        "data__engine__prefill_tokens": ROWS * PROMPT,
    }
