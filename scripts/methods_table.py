"""Write docs/methods.md from configs/{objectives,contexts,teachers} and the docstrings of the parts that they name.

The first line of a config gives name, paper and formula; the parts are read off the objects that the config builds.
Run: python scripts/methods_table.py [--check]   (--check: write nothing, exit with status 1 if the page is out of date)
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from _common import run_script
from jsonargparse import ArgumentParser

from sdar_pl import objectives, teachers
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.skills import hindsight, providers, reflections, retrievers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
HEAD = """# Methods

<!-- Made by scripts/methods_table.py from configs/ and docstrings. Do not edit: run it again. -->

A method is one YAML file, put on top of any recipe. It states every argument of the objective and the advantage, so
that nothing of the recipe's method stays. Only the weights of the reference KL and of the entropy bonus are the
recipe's, where the method has these terms:

    python -m sdar_pl fit --config configs/quickstart.yaml --config configs/objectives/rlsd.yaml
    python -m sdar_pl compare --config configs/quickstart.yaml --objectives grpo,sdar,rlsd --seeds 5

To write one of your own, see [extending.md](extending.md#a-method).

Δ = log π_T − log π_θ is the gap between teacher and student on the student's own token, g the token weight (gate), A
the advantage, ρ = π_θ / π_old, h the student's entropy, λ the coefficient, sg(·) is detached. Only arguments that are
not at their default are shown.
"""
FAMILIES = {
    "Policy losses": (
        "policy loss",
        "The GRPO advantage and no teacher; they differ in the policy loss or in the student's prompt.",
    ),
    "Advantages": ("advantage", "No teacher; they differ in how rewards become advantages."),
    "Distillation": ("gate, estimator, λ, schedule", "A teacher with privileged context adds a loss to GRPO's."),
    "Shapers": ("shaper", "A teacher with privileged context changes GRPO's advantages; no loss is added."),
}


# ---------------------------------------------------------------------- one method


def built(*paths: Path) -> Any:
    """The objects of a method's slots: ``model.{objective, teacher}``, ``data.{advantage, context}`` and its flags."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model.objective", type=objectives.Objective)
    parser.add_argument("--model.teacher", type=teachers.Teacher)
    parser.add_argument("--data.advantage", type=objectives.Advantage)
    parser.add_argument("--data.context", type=providers.ContextProvider)
    parser.add_argument("--data.train_with_context", type=bool, default=False)
    parser.add_argument("--data.max_refills", type=int, default=0)
    parser.add_argument("--data.keep_for_distillation", type=bool, default=False)
    return parser.instantiate(parser.parse_args([f"--config={path}" for path in paths]))


def described(part: Any) -> str:
    """``Class(argument=value)``, with the arguments that are not at their default."""
    defaults = {name: p.default for name, p in inspect.signature(type(part)).parameters.items() if hasattr(part, name)}
    values = {name: getattr(part, name) for name in defaults}
    changed = [
        f"{name}={value}"
        for name, value in values.items()
        if isinstance(value, int | float | str | None) and value != defaults[name]
    ]
    return f"`{type(part).__name__}" + (f"({', '.join(changed)})`" if changed else "`")


def method(path: Path) -> tuple[str, list[str]]:
    """A method's family and its cells."""
    name, paper, formula = head(path, 3)
    config = built(path)
    objective, advantage = config.model.objective, described(config.data.advantage or objectives.GroupAdvantage())
    if objective.distillation is not None:
        family, part = "Distillation", objective.distillation
        parts = [described(part.gate), described(part.estimator), f"{part.coefficient:g}"]
        parts += [described(part.schedule)] * (not isinstance(part.schedule, objectives.Constant))
    elif objective.shaper is not None:
        family, parts = "Shapers", [described(objective.shaper)]
    elif advantage != described(objectives.GroupAdvantage()):
        family, parts = "Advantages", [advantage]
    else:
        family, parts = "Policy losses", [described(objective.policy_loss)]
    return family, [name, ", ".join(parts), formula, paper, link(path)]


def head(path: Path, parts: int) -> list[str]:
    """The first line of a config: ``# name · paper · formula``."""
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(" · ", parts - 1)
    if len(words) != parts:
        sys.exit(f"{path}: the first line must read '# name · paper · formula'")
    return words


# ---------------------------------------------------------------------- the page


def page() -> str:
    methods = [method(path) for path in sorted((ROOT / "configs" / "objectives").glob("*.yaml"))]
    contexts = [
        [link(path), described(built(path).data.context) + retriever(built(path).data.context), *head(path, 1)]
        for path in sorted((ROOT / "configs" / "contexts").glob("*.yaml"))
    ]
    weights = [
        [link(path), described(built(path).model.teacher), *head(path, 1)]
        for path in sorted((ROOT / "configs" / "teachers").glob("*.yaml"))
    ]
    o = objectives
    slots: list[tuple[str, Iterable[type]]] = [
        ("Privileged context", classes(providers.ContextProvider, providers, hindsight, reflections)),
        ("Retrievers of skills", classes(retrievers.Retriever, retrievers)),
        ("Teacher weights", classes(teachers.Teacher, teachers)),
        ("Policy loss", classes(o.PolicyLoss, o)),
        ("Advantage", classes(o.Advantage, o)),
        ("Gate", classes(o.Gate, o)),
        ("Estimator", classes(o.Estimator, o)),
        ("Shaper", classes(o.AdvantageShaper, o)),
        ("Schedule", classes(o.Schedule, o)),
    ]
    parts = [HEAD]
    for family, (column, text) in FAMILIES.items():
        rows = [cells for name, cells in methods if name == family]
        parts.append(f"## {family}\n\n{text}\n\n{table(('method', column, 'formula', 'paper', 'config'), rows)}\n")
    parts.append(f"## Privileged contexts\n\n{table(('config', 'provider', ''), contexts)}\n")
    parts.append(f"## Teacher weights\n\n{table(('config', 'class', ''), weights)}\n")
    parts.append("## Parts\n\nThe classes of each slot. `--help` explains their arguments, for example:\n")
    parts.append("    python -m sdar_pl fit --model.objective.help sdar_pl.objectives.SDAR\n")
    for title, members in slots:
        rows = [[f"`{class_path(member)}`", paragraph(member)] for member in members]
        parts.append(f"### {title}\n\n{table(('class', ''), rows)}\n")
    return "\n".join(parts)


def classes(base: type, *modules: Any) -> list[type]:
    """The public subclasses of ``base`` in the modules, in the order of their source."""
    members = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    public = [c for c in members if issubclass(c, base) and c is not base and not c.__name__.startswith("_")]
    return sorted(public, key=lambda c: (c.__module__, inspect.getsourcelines(c)[1]))


def class_path(part: type) -> str:
    """The shortest class path that YAML can name."""
    module = "sdar_pl.objectives" if part.__name__ in objectives.__all__ else part.__module__
    return f"{module}.{part.__name__}"


def retriever(context: Any) -> str:
    part = getattr(context, "retriever", None)
    return "" if part is None else f" with {described(part)}"


def paragraph(part: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def link(path: Path) -> str:
    return f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Text for a Markdown table: bars escaped, arXiv numbers linked."""
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", text.replace("|", "\\|").replace("``", "`"))


def main() -> int:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if the page is out of date"
    )
    check = parser.parse_args().check
    text = page()
    if not check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.relative_to(ROOT)} is out of date: run python scripts/methods_table.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
