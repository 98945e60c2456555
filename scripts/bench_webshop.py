"""How fast is WebShop at 1k, 100k and 1M products: ingest, opening, search, steps, memory.

The products are synthetic (scripts/webshop_catalogue.py), in files of the official schema. Each size runs in fresh
processes: one that reads the files, one that plays 128 sessions on 16 threads. Writes benchmarks/webshop.json and
benchmarks/webshop.md. Needs pip install 'sdar_pl[webshop]'.

Run: python scripts/bench_webshop.py [--products 1000 100000 1000000] [--data folder]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import webshop_catalogue
from _common import in_words, machine, run_script

from sdar_pl.environments.webshop import WebShop
from sdar_pl.runtime.messages import PlainParser

SESSIONS, THREADS, QUERIES = 128, 16, 300
AIMS = {"search_ms": 5.0, "step_ms": 0.2, "ingest_gib": 6.0}


def shop(folder: Path) -> WebShop:
    paths = {"products": folder / "items_shuffle.json", "attributes": folder / "items_ins_v2.json"}
    return WebShop(**{key: str(path) for key, path in paths.items()}, store=str(folder / "store"), splits="small")


def peak_gib() -> float:
    """Peak resident memory of this process (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ingest(folder: Path) -> dict[str, float]:
    """Read the files into the store."""
    size = sum(path.stat().st_size for path in folder.glob("*.json")) / 1e6
    began = time.perf_counter()
    shop(folder)
    seconds = time.perf_counter() - began
    return {"files_mb": size, "ingest_s": seconds, "ingest_mb_per_s": size / seconds, "ingest_gib": peak_gib()}


def playing(folder: Path) -> dict[str, float]:
    """Open the store, search one query after another, then play all sessions on threads."""
    began = time.perf_counter()
    environment = shop(folder)
    opening = time.perf_counter() - began
    tasks, rng = environment.tasks("train"), random.Random(0)
    drawn = [tasks[rng.randrange(len(tasks))] for _ in range(QUERIES + SESSIONS)]
    goals = [environment.goals.goal(task.data) for task in drawn]
    queries = [f"{' '.join(goal['attributes'])} {goal['query']}" for goal in goals[:QUERIES]]
    environment.store.search(queries[-1], 50)  # the first search maps the index into memory
    searches = sorted(
        timed(lambda query=query: environment.store.search(query, 50)) for query in dict.fromkeys(queries)
    )
    steps: list[float] = []

    def play(number: int) -> int:
        task = drawn[QUERIES + number]
        session, walk, taken = environment.session(task), random.Random(number), 0
        seen = session.reset()
        seen = session.step(f"search[{goals[QUERIES + number]['query']}]")
        while not seen.done and taken < 100:
            action = walk.choice(seen.admissible)
            began = time.perf_counter()
            seen = session.step(action)
            if not action.startswith("search"):
                steps.append(time.perf_counter() - began)
            taken += 1
        return taken

    for number in range(16):
        play(number)
    alone = statistics.median(steps)
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        taken = sum(pool.map(play, range(SESSIONS)))
    return {
        "open_s": opening,
        "search_ms": 1000 * statistics.median(searches),
        "search_p95_ms": 1000 * searches[int(0.95 * len(searches))],
        "step_ms": 1000 * alone,
        "steps_per_s": taken / (time.perf_counter() - began),
        "playing_gib": peak_gib(),
    }


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(folder: Path, part: str) -> dict[str, float]:
    """A part in a fresh process."""
    words = [sys.executable, __file__, "--part", part, "--data", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(runs: dict[str, dict[str, float]], on: dict[str, Any], command: str) -> str:
    lines = [
        *("# WebShop at 1k, 100k and 1M products", "", f"`{command}`", f"on {in_words(on)}.", ""),
        "Synthetic products in the official schema. Ingest reads the two files into the store and builds the index in",
        "a process of its own. Another opens the store, searches for up to",
        f"{QUERIES} goals (50 hits), and plays {SESSIONS} sessions on {THREADS} threads with random clicks;",
        "all share one store. A step is the median of sessions played one",
        "at a time, outside search. Memory is the peak of the process; the pages of the memory-mapped index count.",
        "",
        "| products | files MB | ingest s | MB/s | ingest GiB | open s | search p50 ms | p95 ms | step ms | steps/s "
        "| GiB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for number, run in runs.items():
        keys = ("files_mb", "ingest_s", "ingest_mb_per_s", "ingest_gib", "open_s", "search_ms", "search_p95_ms")
        cells = [f"{run[key]:,.2f}" for key in (*keys, "step_ms", "steps_per_s", "playing_gib")]
        lines.append(f"| {int(number):,} | {' | '.join(cells)} |")
    limits = (AIMS["search_ms"], AIMS["step_ms"], AIMS["ingest_gib"])
    aims = "search p50 ≤ {:g} ms, step ≤ {:g} ms, ingest ≤ {:g} GiB".format(*limits)
    return "\n".join([*lines, "", f"Aims: {aims}.", ""])


def main(argv: Sequence[str] | None = None) -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--data", type=Path, help="keeps the files here; a part's own folder")
    parser.add_argument("--part", choices=("ingest", "playing"), help="run one part in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    args = parser.parse_args(argv)
    if args.part:
        print(json.dumps({"ingest": ingest, "playing": playing}[args.part](args.data)))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number in args.products:
            folder = (args.data or Path(temporary)) / str(number)
            if not (folder / "items_ins_v2.json").exists():
                webshop_catalogue.write(folder, number)
            runs[str(number)] = {**measured(folder, "ingest"), **measured(folder, "playing")}
            print(number, runs[str(number)], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    on, command = machine(), f"python scripts/bench_webshop.py --products {' '.join(runs)}"
    (args.out / "webshop.json").write_text(
        json.dumps({"command": command, "machine": on, "runs": runs}, indent=1) + "\n"
    )
    (args.out / "webshop.md").write_text(page(runs, on, command))


if __name__ == "__main__":
    run_script(main)
