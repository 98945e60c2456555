"""The structure (docs/architecture.md): imports point one way, few modules know Lightning, files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

#: Every part of the package, from the ground up. A part imports parts of lower layers only.
LAYERS = (
    {"types", "errors"},
    {"checks"},
    {"objectives"},
    {"modeling"},
    {"runtime"},
    {"batch", "retrieval"},
    {"policy"},
    {"environments", "control_tokens"},
    {"prompts", "teachers", "engines", "skills", "rewards"},
    {"sampling"},
    {"rollout", "scoring"},
    {"datamodule"},
    {"module"},
    {"warmup"},
    {"reports"},
    {"callbacks"},
    {"commands"},
    {"cli", "api"},
    {"__main__"},
)
#: The only files that import Lightning, beside the callbacks.
LIGHTNING = {
    *("module", "warmup/module", "datamodule", "commands/lightning_cli", "commands/trainer_arguments", "commands/plan"),
    "commands/play",
    "api",
    *(
        "runtime/strategy",
        "runtime/precision",
        "runtime/checkpoint_files",
        "runtime/metrics_csv",
        "runtime/loggers",
        "runtime/loopback",
    ),
}
NO_TORCH = {
    "environments",
    "skills",
    "rewards",
    "prompts",
    "control_tokens",
    "rollout",
    "types",
    "errors",
    "checks",
    "sampling/threads",
    *(f"retrieval/{name}" for name in ("base", "words", "corpus", "index_folder", "bm25", "http", "server")),
    "retrieval/postings",
}
SOURCES = sorted([*(ROOT / "sdar_pl").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")])
SOURCES = [path for path in SOURCES if path.resolve() == path]  # sdar_pl/callbacks is a link
LIMIT = 300  # lines


def name(path: Path) -> str:
    """A source file's path within the package: "engines/kv", "callbacks/progress"."""
    inside = path.relative_to(ROOT if "callbacks" in path.parts else ROOT / "sdar_pl")
    return inside.with_suffix("").as_posix()


def part(path: Path) -> str:
    """The module or folder of the package that a source file belongs to."""
    return name(path).split("/")[0]


def imports(path: Path) -> set[str]:
    """All that a file imports, wherever in it, also by ``importlib.import_module("…")``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {word.value for word in ast.walk(node) if isinstance(word, ast.Constant)}  # type: ignore[misc]
    return names


def own(path: Path) -> set[str]:
    """The parts of this package that a file imports."""
    names = {word.split(".")[1] for word in imports(path) if str(word).startswith("sdar_pl.")}
    return names - {"__version__", ""}


def foreign(path: Path) -> set[str]:
    return {str(word).split(".")[0] for word in imports(path)} - {"sdar_pl"}


def test_every_part_has_a_layer() -> None:
    parts = {part(path) for path in SOURCES} - {"__init__"}
    assert parts == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(parts)


def test_imports_point_one_way() -> None:
    layer = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    wrong = [
        f"{name(path)} imports {other}"
        for path in SOURCES
        for other in own(path) - {part(path)}
        if part(path) != "__init__" and layer[other] >= layer[part(path)]
    ]
    assert not wrong


def test_worlds_and_skills_need_no_torch() -> None:
    heavy = {"torch", "lightning", "transformers", "peft"}
    assert not [name(path) for path in SOURCES if {part(path), name(path)} & NO_TORCH and foreign(path) & heavy]
    program = "import sys, sdar_pl.environments.household, sdar_pl.skills.hindsight; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_objectives_need_tensors_only() -> None:
    for path in SOURCES:
        if part(path) == "objectives":
            assert foreign(path) - set(sys.stdlib_module_names) <= {"torch"}, path


def test_few_know_lightning() -> None:
    users = {name(path) for path in SOURCES if foreign(path) & {"lightning", "pytorch_lightning"}}
    assert {user for user in users if not user.startswith("callbacks/")} == LIGHTNING
    # The datamodule is given the policy, the objective and the teacher: it needs no way to the module.
    assert "lightning_module" not in (ROOT / "sdar_pl" / "datamodule.py").read_text(encoding="utf-8")


def test_callbacks_have_one_name() -> None:
    """Imported as ``callbacks`` instead of ``sdar_pl.callbacks``, their classes would be loaded twice."""
    everywhere = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert not [path for path in everywhere if "callbacks" in foreign(path)]


def test_files_are_short() -> None:
    files = [*SOURCES, *(ROOT / "scripts").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    counts = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {file: count for file, count in counts.items() if count > LIMIT}, "one concept a file"
