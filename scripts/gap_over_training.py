"""The gap between teacher and student over training, from the runs of a comparison (mean over seeds).

Run: python scripts/gap_over_training.py runs/compare [--metric gap/mean] [--every 1]
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from _common import run_script

from sdar_pl.errors import UserError
from sdar_pl.runtime.messages import PlainParser


def table(folder: Path, metric: str, every: int) -> str:
    """Markdown: a line for each objective that has this metric, a column for each iteration."""
    if not folder.is_dir():
        raise UserError(f"folder: {folder} does not exist; name the --out of a comparison")
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*/seed-*/run/metrics.csv")):
        cell = path.parents[1] / "cell.json"
        if not cell.exists():
            continue  # not finished
        name = json.loads(cell.read_text(encoding="utf-8"))["objective"]
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get(metric):
                    found[name][int(row["step"])].append(float(row[metric]))
    steps = sorted({step for values in found.values() for step in values if (step - 1) % every == 0})
    lines = [["objective", "seeds", *map(str, steps)], ["---", *["--:"] * (len(steps) + 1)]]
    for name, values in found.items():
        means = [f"{sum(values[step]) / len(values[step]):+.3f}" if values[step] else "" for step in steps]
        lines.append([name, str(max(map(len, values.values()))), *means])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of a comparison")
    parser.add_argument("--metric", default="gap/mean")
    parser.add_argument("--every", type=int, default=1, help="a column for every n-th iteration")
    args = parser.parse_args()
    print(table(args.folder, args.metric, args.every))


if __name__ == "__main__":
    run_script(main)
