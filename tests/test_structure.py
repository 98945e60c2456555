"""The house: imports point one way (docs/architecture.md), and files stay short enough to read."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from helpers import ROOT

FILES = sorted(path for path in (ROOT / "sdar_pl").rglob("*.py") if "callbacks" not in path.parts)
#: from the ground up; what is not named may stand anywhere, as long as there is no circle
STOREYS = (
    {"types", "errors", "checks"},
    {"batch"},
    {"policy"},
    {"engines", "environments", "skills", "prompts", "teachers"},
    {"rollout", "scoring", "objectives"},
    {"datamodule"},
    {"module"},
    {"cli"},
)


def part(path: Path) -> str:
    """The package's module or folder that a file belongs to."""
    return path.relative_to(ROOT / "sdar_pl").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """All that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(path: Path) -> set[str]:
    """The parts of this package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("sdar_pl.")}


def foreign(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {"sdar_pl"}


def test_imports_point_one_way() -> None:
    assert len(FILES) > 50
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part(path), set()).update(own(path) - {part(path), "__version__"})
    assert set().union(*STOREYS) <= set(graph)
    TopologicalSorter(graph).prepare()  # raises CycleError
    storey = {name: number for number, names in enumerate(STOREYS) for name in names}
    for name, used in graph.items():
        above = {other for other in used if storey.get(other, 0) > storey.get(name, len(STOREYS))}
        assert not above, f"{name} imports {above}"


def test_worlds_and_skills_need_no_torch() -> None:
    for path in FILES:
        if part(path) in ("environments", "skills", "types", "prompts", "rollout"):
            assert not foreign(path) & {"torch", "lightning", "transformers", "peft"}, path
    program = "import sys, sdar_pl.environments.household, sdar_pl.skills.hindsight; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_objectives_need_tensors_only() -> None:
    for path in FILES:
        if part(path) == "objectives":
            assert own(path) <= {"errors", "checks", "objectives"}, path
            assert foreign(path) - set(sys.stdlib_module_names) <= {"torch"}, path


def test_few_know_lightning() -> None:
    users = {part(path) for path in FILES if foreign(path) & {"lightning", "pytorch_lightning"}}
    assert users <= {"module", "datamodule", "cli", "runtime", "commands"}


def test_nothing_imports_callbacks() -> None:
    assert not [path for path in FILES if "callbacks" in own(path) and part(path) != "cli"]
    # The folder has one name: under another, its classes would be loaded twice.
    everywhere = [*FILES, *(ROOT / "callbacks").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    assert not [path for path in everywhere if "callbacks" in foreign(path)]


def test_files_are_short() -> None:
    long = {path.name: count for path in FILES if (count := len(path.read_text(encoding="utf-8").splitlines())) > 340}
    assert not long, "one concept a file"
