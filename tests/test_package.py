"""The wheel holds everything: the callbacks (which live at the top level), the assets, the type marker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT


@pytest.mark.slow
def test_the_wheel_imports(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    wanted = ["pyproject.toml", "README.md", "LICENSE", "NOTICE"]
    tree.mkdir()
    for name in wanted:
        shutil.copy(ROOT / name, tree)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sdar_pl", tree / "sdar_pl", symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "callbacks", tree / "callbacks", ignore=ignore)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(tree)], check=True, capture_output=True, text=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    code = (
        "import sdar_pl, sdar_pl.callbacks as c, pathlib; "
        "assert pathlib.Path(c.__file__).parent.parent == pathlib.Path(sdar_pl.__file__).parent, c.__file__; "
        "from sdar_pl.modeling.sources import packaged_models; assert 'tiny-household' in packaged_models(); "
        "from sdar_pl.skills.library import SkillLibrary; assert SkillLibrary.builtin('household').skills; "
        "assert (pathlib.Path(sdar_pl.__file__).parent / 'py.typed').exists(); print(c.GateStats.__module__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sdar_pl.callbacks.gate_stats"


def test_a_bare_checkout_sees_the_callbacks() -> None:
    link = ROOT / "sdar_pl" / "callbacks"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "callbacks"
