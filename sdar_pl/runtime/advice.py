"""Commands in messages: they work when they are pasted into a POSIX shell in the same folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(*words: str | Path) -> str:
    """A command line of this package, with names quoted for a shell."""
    return f"{python()} -m sdar_pl {quoted(*words)}"


def quoted(*words: str | Path) -> str:
    """Words for a shell. A path that begins with a dash is written so that no option is taken for it."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )


def python() -> str:
    """``python`` where the shell finds this interpreter under that name, else its path."""
    found = shutil.which("python")
    if found and os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable)):
        return "python"
    return shlex.quote(sys.executable)
