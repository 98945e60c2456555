"""The wheel holds everything: every module imports, also the callbacks from the top level; assets and type marker."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT

#: imported module → the distribution that brings it, where the names differ
DISTRIBUTIONS = {"faiss": "faiss-cpu", "yaml": "pyyaml", "Stemmer": "pystemmer"}
PROGRAM = """
import importlib, pathlib, pkgutil, sys
import sdar_pl
names = [module.name for module in pkgutil.walk_packages(sdar_pl.__path__, "sdar_pl.")]
for name in names:
    if name != "sdar_pl.__main__":
        file = importlib.import_module(name).__file__
        assert file.startswith(sys.argv[1]), file
print(*names)
from sdar_pl.modeling.sources import packaged_models
from sdar_pl.skills.library import SkillLibrary
assert "tiny-household" in packaged_models()
assert SkillLibrary.builtin("household").skills
assert pathlib.Path(sdar_pl.__file__).with_name("py.typed").exists()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tree, site = folder / "tree", folder / "site"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    for name in ("sdar_pl", "callbacks"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(tree)], check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def test_every_module_of_the_wheel_imports(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sources = [path.relative_to(ROOT) for folder in ("sdar_pl", "callbacks") for path in (ROOT / folder).rglob("*.py")]
    expected = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources}
    expected = {f"sdar_pl.{name}" if name.startswith("callbacks") else name for name in expected} - {"sdar_pl"}
    assert set(done.stdout.split()) == expected


def test_what_is_imported_is_declared() -> None:
    """Every package that a module imports is a dependency of its own, not only of another dependency."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {word.lower() for word in re.findall(r'"([A-Za-z0-9_-]+)(?:\[\w+\])?>=', text)}
    for folder in ("sdar_pl", "callbacks"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
            roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"sdar_pl"}
            assert {DISTRIBUTIONS.get(root, root) for root in roots} <= declared, path


def test_a_bare_checkout_sees_the_callbacks() -> None:
    link = ROOT / "sdar_pl" / "callbacks"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "callbacks"
