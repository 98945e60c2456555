"""A long run with faults: does it leak memory, descriptors or threads, and does an iteration stay as fast as it was?

Starts ``python -m sdar_pl fit`` on the packaged tiny policy in an environment with faults (Faulty), and fits a line to
what soak_samples.py writes after every iteration. Then the share of checkpoints in an iteration of the quickstart's
size. Writes benchmarks/soak.md, soak.json and soak.csv, and exits with 1 if a bound is broken.

Run: python scripts/soak.py [--iterations 2000]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from _common import in_words, machine

ROOT = Path(__file__).resolve().parents[1]
FAULTS = {"exceptions": 0.01, "hangs": 0.0005, "nonsense": 0.02, "slow": 0.01}

#: small iterations, and a learning rate at which the policy stays as it is: the work of an iteration does not change
SETTINGS = {
    "data.environment": "sdar_pl.environments.faults.Faulty",
    "data.environment.environment": json.dumps(
        {"class_path": "sdar_pl.environments.household.Household", "init_args": {"size": "tiny", "validation_tasks": 4}}
    ),
    **{f"data.environment.{name}": rate for name, rate in FAULTS.items()},
    "data.environment.delay": 0.02,
    "data.play.step_timeout": 2,
    "data.play.max_turns": 3,
    "data.play.max_failed": 0.75,
    "data.tasks_per_iteration": 2,
    "data.group_size": 2,
    "data.sampling.max_new_tokens": 12,
    "data.evaluation.max_new_tokens": 12,
    "model.optimizer.lr": 1e-6,
}
WARM_UP = 0.1  # share of the iterations that are left out
BLOCKS = 20
T_99 = 2.552  # one-sided 1 % point of Student's t with BLOCKS − 2 degrees of freedom
GROWTH = 0.005  # of the mean in 1,000 iterations: below it a trend is no leak, whatever its significance
OVERHEAD = 0.02  # largest share of checkpoints in an iteration

Samples = dict[str, list[float]]


@dataclass
class Trend:
    """A line through the means of ``BLOCKS`` blocks of iterations.

    Args:
        mean: of all samples after the warm-up.
        per_1000: growth in 1,000 iterations.
        t: slope divided by its standard error.
        low: smallest sample.
        high: largest sample.
    """

    mean: float
    per_1000: float
    t: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether the growth is both significant (one-sided, 1 %) and above ``GROWTH`` of the mean."""
        return self.t > T_99 and self.per_1000 > GROWTH * self.mean


def trend(values: Sequence[float]) -> Trend:
    """The trend of one value an iteration."""
    kept = np.asarray(values[int(WARM_UP * len(values)) :], float)
    means = np.array([block.mean() for block in np.array_split(kept, BLOCKS)])
    x = (np.arange(BLOCKS) + 0.5) * len(kept) / BLOCKS
    centred = x - x.mean()
    heights = means - means.mean()
    slope = float(centred @ heights / (centred @ centred))
    rest = heights - slope * centred
    error = math.sqrt(float(rest @ rest) / (BLOCKS - 2) / float(centred @ centred))
    t = slope / error if error else math.inf * np.sign(slope) if slope else 0.0
    return Trend(float(kept.mean()), 1000 * slope, float(t), float(kept.min()), float(kept.max()))


def fit(folder: Path, name: str, iterations: int, settings: dict[str, object]) -> tuple[Samples, dict[str, object]]:
    """Run ``fit`` to its end → its samples and its sums (soak_samples.py). Raises ``SystemExit`` if it fails.

    A run that ``folder`` holds already is not repeated.
    """
    if not (folder / name / "sums.json").exists():
        start(folder, name, iterations, settings)
    with (folder / name / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    samples = {column: [float(row[column]) for row in rows] for column in rows[0]}
    return samples, json.loads((folder / name / "sums.json").read_text())


def start(folder: Path, name: str, iterations: int, settings: dict[str, object]) -> None:
    options = {"trainer.max_epochs": iterations, "trainer.default_root_dir": folder, "run": name, **settings}
    words = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "sdar_pl", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), *words]
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    log = folder / f"{name}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*command, "--trainer.callbacks+=soak_samples.Samples"],
            **{"env": environment, "stdout": output, "stderr": subprocess.STDOUT, "check": False},  # type: ignore[call-overload]
        )
    if done.returncode:
        raise SystemExit(f"fit ended with status {done.returncode}: {log.read_text()[-2000:]}")


def broken_bounds(trends: dict[str, Trend], overhead: float) -> list[str]:
    """The bounds that do not hold, in words."""
    broken = [f"{name} grows" for name in ("memory", "wall_s", "cpu_s") if trends[name].grows]
    broken += [f"{name} are not constant" for name in ("descriptors", "threads") if trends[name].per_1000 > 0.1]
    return broken + ([f"checkpoints take {overhead:.1%} of an iteration"] if overhead > OVERHEAD else [])


def main() -> int:
    """Soak, report → 0, or 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--minutes", type=int, help="end the run earlier, after this many minutes")
    parser.add_argument("--quickstart", type=int, default=5, help="iterations of the quickstart's size")
    parser.add_argument("--runs", type=Path, help="keep the runs here, and use those that are here already")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        folder = args.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**SETTINGS, "trainer.check_val_every_n_epoch": max(1, args.iterations // 10)}
        if args.minutes:
            settings["trainer.max_time"] = f"00:{args.minutes // 60:02}:{args.minutes % 60:02}:00"
        samples, sums = fit(folder, "soak", args.iterations, settings)
        whole, _ = fit(folder, "quickstart", args.quickstart, {"trainer.limit_val_batches": 0})
    trends = {name: trend(samples[name]) for name in ("memory", "descriptors", "threads", "wall_s", "cpu_s")}
    shares = {
        name: {
            clock: statistics.median(c / s for c, s in zip(run[f"checkpoint_{clock}"], run[clock], strict=True))
            for clock in ("wall_s", "cpu_s")
        }
        for name, run in (("soak", samples), ("quickstart", whole))
    }
    broken = broken_bounds(trends, shares["quickstart"]["cpu_s"])
    report = {
        "iterations": len(samples["iteration"]),
        "trends": {name: {**asdict(one), "grows": one.grows} for name, one in trends.items()},
        "checkpoint_share": shares,
        "quickstart_iteration_s": {clock: statistics.median(whole[clock]) for clock in ("wall_s", "cpu_s")},
        "sums": sums,
        "broken": broken,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": machine(threads=1),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "soak.md").write_text(markdown(report, trends))
    write_csv(args.out / "soak.csv", samples)
    print((args.out / "soak.md").read_text())
    return 1 if broken else 0


def write_csv(path: Path, samples: Samples, every: int = 10) -> None:
    """Means of every ten iterations; ``iteration`` is the last of them."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(samples)
        for end in range(every, len(samples["iteration"]) + 1, every):
            means = {name: statistics.fmean(values[end - every : end]) for name, values in samples.items()}
            writer.writerow([f"{value:.6g}" for value in {**means, "iteration": end}.values()])


def markdown(report: dict, trends: dict[str, Trend]) -> str:  # type: ignore[type-arg]
    units = {"memory": (2**20, "MiB"), "wall_s": (1e-3, "ms"), "cpu_s": (1e-3, "ms")}
    names = {
        **{"memory": "anonymous memory", "descriptors": "open descriptors", "threads": "threads"},
        **{"wall_s": "an iteration by the clock", "cpu_s": "an iteration in processor time"},
    }
    sums, share, whole = report["sums"], report["checkpoint_share"], report["quickstart_iteration_s"]
    lines = [
        f"# Soak: {report['iterations']:,} iterations with faults",
        "",
        f"The packaged tiny policy, `fit` with every default callback, {sums['episodes']:,} episodes of two groups of "
        f"two. Faults a call: {', '.join(f'{name} {rate:.2%}' for name, rate in FAULTS.items())}; injected: "
        f"{', '.join(f'{count} {name}' for name, count in sums['injected'].items())}. {sums['failed']} episodes failed "
        "for good.",
        "",
        "| | mean | growth in 1,000 iterations | t | lowest – highest | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for key, one in trends.items():
        factor, unit = units.get(key, (1, ""))
        mean, growth, low, high = (value / factor for value in (one.mean, one.per_1000, one.low, one.high))
        lines.append(
            f"| {names[key]} | {mean:.1f} {unit} | {growth:+.2f} {unit} | {one.t:+.1f} | {low:.1f} – {high:.1f} | "
            f"{'grows' if one.grows else 'constant'} |"
        )
    lines += [
        "",
        f"Test: a line through the means of {BLOCKS} blocks of iterations, the first {WARM_UP:.0%} left out. A value "
        f"grows if its slope is significant (t > {T_99}, one-sided, 1 %) and above {GROWTH:.1%} of the mean in 1,000 "
        "iterations; descriptors and threads may not grow by more than 0.1 in 1,000 iterations. Anonymous memory is "
        "what the process itself holds, resident or swapped.",
        "",
        f"**Checkpoints** (two an iteration, flushed to the disk), share of an iteration, median: quickstart's size "
        f"({whole['wall_s']:.1f} s by the clock, {whole['cpu_s']:.1f} s of processor) "
        f"{share['quickstart']['wall_s']:.1%} by the clock, {share['quickstart']['cpu_s']:.1%} in processor time; "
        f"the soak's small iterations "
        f"{share['soak']['wall_s']:.1%} and {share['soak']['cpu_s']:.1%}. Bound: {OVERHEAD:.0%} of the processor time.",
        "",
        f"**Bounds broken: {', '.join(report['broken']) or 'none'}.**",
        "",
        f"Machine: {in_words(report['machine'])}. {report['minutes']} minutes, load average {report['load_average']}.",
        "",
        "Command: `make soak`. soak.csv has the means of every ten iterations.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
