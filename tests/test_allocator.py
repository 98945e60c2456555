"""malloc keeps memory: tensors that are freed and made again take no page faults."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
from _allocator import VARIABLES, keep_memory
from helpers import ROOT

PROGRAM = """
import json, resource
from _allocator import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        parts = [b"x" * (20 * 2**20) for _ in range(6)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before, kept = faults(), keep_memory()
faults()
print(json.dumps([before, kept, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, cwd=ROOT / "scripts", env=environment, check=True
    )
    before, kept, after = json.loads(done.stdout)
    assert kept is True
    assert before > 50_000
    assert after < 1_000


def test_the_user_s_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    assert not keep_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_memory()
