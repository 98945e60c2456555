"""Evidence from outside the repository (reference figures, games, packages): skipped where missing, a failure in CI."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest


def required(evidence: Path | str, reason: str) -> None:
    """Skip the calling test where ``evidence`` is missing; fail it in CI.

    CI is ``SDAR_PL_EVIDENCE=required`` or, where that variable is unset, ``CI=true``.

    Args:
        evidence: a path that must exist, or the name of a module that must be importable.
        reason: what the test needs it for, for the message.
    """
    there = evidence.exists() if isinstance(evidence, Path) else find_spec(evidence) is not None
    if there:
        return
    message = f"{evidence} is missing: {reason}"
    setting = os.environ.get("SDAR_PL_EVIDENCE", "required" if os.environ.get("CI") == "true" else "optional")
    if setting == "required":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
