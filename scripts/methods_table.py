"""Make docs/methods.md from configs/{objectives,contexts,teachers} and the docstrings of the parts that they name.

A config's first line says name, paper and formula; the five slots are read off the objects that it makes.
Run: python scripts/methods_table.py [--check]   (--check: only say whether the page is current; status 1 if not)
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from sdar_pl import objectives, teachers
from sdar_pl.skills import hindsight, providers, retrievers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
NONE = "–"
HEAD = """# Methods

<!-- Made by scripts/methods_table.py from configs/ and docstrings. Do not edit: run it again. -->

A method is one YAML file, put on top of any recipe; what it does not say stays as the recipe has it:

    python -m sdar_pl fit --config configs/quickstart.yaml --config configs/objectives/rlsd.yaml
    python -m sdar_pl compare --config configs/quickstart.yaml --objectives grpo,sdar,rlsd --seeds 5

Δ = log π_T − log π_θ is the gap between teacher and student on the student's own token, g the token weight (gate), A
the advantage, ρ = π_θ / π_old, h the student's entropy, λ the coefficient, sg(·) is detached. Of a class's arguments
those are shown that are not at their default.
"""
COLUMNS = (
    *("method", "privileged context", "advantage", "token weight", "injection", "schedule", "policy loss"),
    *("formula", "paper", "config"),
)


# ---------------------------------------------------------------------- one method


def made(path: Path) -> Any:
    """The objects of a config on top of the defaults."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model.objective", type=objectives.Objective)
    parser.add_argument("--model.teacher", type=teachers.Teacher)
    parser.add_argument("--data.advantage", type=objectives.Advantage)
    parser.add_argument("--data.context", type=providers.ContextProvider)
    parser.add_argument("--data.train_with_context", type=bool, default=False)
    parser.add_argument("--data.max_refills", type=int, default=0)
    return parser.instantiate(parser.parse_args([f"--config={path}"]))


def described(part: Any) -> str:
    """``Class(argument=value)``, with the arguments that are not at their default."""
    if part is None:
        return NONE
    known = {name: p.default for name, p in inspect.signature(type(part)).parameters.items() if hasattr(part, name)}
    plain = {name: getattr(part, name) for name in known if isinstance(getattr(part, name), int | float | str | None)}
    given = [f"{name}={value}" for name, value in plain.items() if value != known[name]]
    return f"`{type(part).__name__}" + (f"({', '.join(given)})`" if given else "`")


def row(path: Path) -> list[str]:
    """A method's cells."""
    name, paper, formula = head(path, 3)
    config = made(path)
    objective = config.model.objective
    distillation, shaper = objective.distillation, objective.shaper
    context = "the run's" if objective.needs_teacher else NONE
    weight, injection, schedule = NONE, NONE, NONE
    if config.data.train_with_context:
        context = "the run's, shown to the student in training"
    if distillation is not None:
        weight, schedule = described(distillation.gate), described(distillation.schedule)
        injection = f"loss, λ = {distillation.coefficient:g}: {described(distillation.estimator)}"
    if shaper is not None:
        weight, schedule = described(shaper), described(getattr(shaper, "schedule", objectives.Constant()))
        injection = "added to A" if paragraph(shaper).startswith("A + ") else "multiplies A"
    slots = [
        context,
        described(config.data.advantage or objectives.GroupAdvantage()),
        weight,
        injection,
        schedule,
        described(objective.policy_loss),
    ]
    return [name, *slots, formula, paper, link(path)]


def head(path: Path, parts: int) -> list[str]:
    """The first line of a config: ``# name · paper · formula``."""
    found = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(" · ", parts - 1)
    if len(found) != parts:
        sys.exit(f"{path}: the first line must read '# name · paper · formula'")
    return found


# ---------------------------------------------------------------------- the page


def page() -> str:
    methods = [row(path) for path in sorted((ROOT / "configs" / "objectives").glob("*.yaml"))]
    contexts = [
        [link(path), described(made(path).data.context) + retriever(made(path).data.context), *head(path, 1)]
        for path in sorted((ROOT / "configs" / "contexts").glob("*.yaml"))
    ]
    weights = [
        [link(path), described(made(path).model.teacher), *head(path, 1)]
        for path in sorted((ROOT / "configs" / "teachers").glob("*.yaml"))
    ]
    o = objectives
    slots: list[tuple[str, Iterable[type]]] = [
        ("Privileged context", kinds(providers.ContextProvider, providers, hindsight)),
        ("Retrievers of skills", kinds(retrievers.Retriever, retrievers)),
        ("Teacher weights", kinds(teachers.Teacher, teachers)),
        ("Advantage", kinds(o.Advantage, o)),
        ("Token weight", [*kinds(o.Gate, o), *kinds(o.AdvantageShaper, o)]),
        ("Estimators of the injected loss", kinds(o.Estimator, o)),
        ("Schedule", kinds(o.Schedule, o)),
        ("Policy loss", kinds(o.PolicyLoss, o)),
    ]
    parts = [HEAD, table(COLUMNS, methods), "\n## Privileged contexts\n", table(("config", "provider", ""), contexts)]
    parts += ["\n## Teacher weights\n", table(("config", "class", ""), weights)]
    parts.append("\n## Parts\n\nThe classes that can stand in each slot, in their own words.")
    for title, classes in slots:
        rows = [[f"`{class_path(kind)}`", paragraph(kind)] for kind in classes]
        parts.append(f"\n### {title}\n\n{table(('class', ''), rows)}")
    return "\n".join(parts) + "\n"


def kinds(base: type, *modules: Any) -> list[type]:
    """The public classes of a kind, in the order in which they are written; the base itself left out."""
    found = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    chosen = [c for c in found if issubclass(c, base) and c is not base and not c.__name__.startswith("_")]
    return sorted(chosen, key=lambda c: (c.__module__, inspect.getsourcelines(c)[1]))


def class_path(kind: type) -> str:
    """The shortest path that a YAML can name."""
    module = "sdar_pl.objectives" if kind.__name__ in objectives.__all__ else kind.__module__
    return f"{module}.{kind.__name__}"


def retriever(context: Any) -> str:
    chosen = getattr(context, "retriever", None)
    return "" if chosen is None else f" with {described(chosen)}"


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is current")
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
    sys.exit(main())
