"""The action in a policy's output: the reference implementation's parser, which its environments share."""

from __future__ import annotations

import re

from sdar_pl.errors import UserError

_CHINESE = re.compile("[\u4e00-\u9fff]")


def parse_action(text: str, think: bool = True, tail: int = 30) -> tuple[str, bool]:
    """Model output → (action, whether the output kept to the format).

    The action is the lower-cased, stripped text between the first ``<action>`` and the first ``</action>`` (tags in any
    case). Without both tags the output is invalid, and its last ``tail`` characters are the action. With ``think`` a
    valid output also has ``<think>`` and ``</think>`` somewhere, and no Chinese characters. This is the behaviour of
    the reference implementation; the tests hold it to that implementation's figures.
    """
    lowered = text.lower()
    start, end = lowered.find("<action>"), lowered.find("</action>")
    if start < 0 or end < 0:
        return lowered[-tail:], False
    action = lowered[start + len("<action>") : end].strip()
    if not think:
        return action, True
    return action, "<think>" in text and "</think>" in text and not _CHINESE.search(text)


def tagged(action: str, think: bool) -> str:
    """The response that holds an action. Raises ``UserError`` where it would have to ``think``."""
    refuse_thoughts(think)
    return f"<action>{action}</action>"


def refuse_thoughts(think: bool) -> None:
    """Raises ``UserError`` for responses of scripted players that would have to ``think``."""
    if think:
        raise UserError(
            "data.environment.think: true, but scripted players give no reasons; set it to false, or "
            "data.demonstrations to sdar_pl.warmup.ChatFile"
        )
