"""README and docs: commands can be pasted."""

from __future__ import annotations

import pytest
from helpers import ROOT
from helpers.pages import commands

from sdar_pl.cli import main

#: files that a page tells the reader to make first
MADE = ("guess.yaml", "hard_gate.yaml", "plain_engine.yaml", "tips.yaml", "faulty.yaml", "runs/")
#: pages whose commands are whole; the others have some with a gap
PASTED = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("configuration", "extending", "troubleshooting")),
]
COMMANDS = sorted(
    {tuple(words) for page in PASTED for words in commands(page) if words and words[0] in ("fit", "validate", "test")}
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_parses(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if "…" in " ".join(words) or "NAME" in " ".join(words):
        pytest.fail("a command with a gap cannot be pasted")
    if any(word.startswith(MADE) for word in words):
        return  # test_extending.py, or a run that is not there yet
    monkeypatch.chdir(ROOT)
    if "--ckpt_path" in words:
        at = words.index("--ckpt_path")
        words = (*words[:at], *words[at + 2 :])
    with pytest.raises(SystemExit) as end:
        main([*words, *([] if any("help" in word for word in words) else ["--print_config"])])
    assert end.value.code == 0
