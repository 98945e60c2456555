"""How fast are real ALFWorld games: the native engine against the official one (textworld), and 128 at a time.

Both play the same games with the same commands, game by game in turn, in one process: at random with slips, and the
walkthrough. What they answer is compared, outside the clock. The official engine is called directly, without the
worker process that a training puts it into. Memory is that of a fresh process with 128 native sessions of 128 games.
Writes benchmarks/alfworld.json and benchmarks/alfworld.md. Needs the games and pip install 'sdar_pl[alfworld]'.

Run: python scripts/bench_alfworld.py [--root $ALFWORLD_DATA] [--games 60] [--steps 40]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from _common import run_script

from sdar_pl.environments.alfworld import GAME_FILE, AlfWorld
from sdar_pl.environments.alfworld.pddl import load_game
from sdar_pl.environments.alfworld.textworld_worker import load as load_official
from sdar_pl.environments.household.rules import HouseholdSession
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.types import Task

T = TypeVar("T")
SESSIONS, THREADS = 128, 16
SLIPS = ("", "take everything", "open", "go to nowhere 1", "examine")
PHASES = ("load", "reset", "step")
AIMS = {"load": 50, "load + reset": 50, "step": 100}


def timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def commands(world: AlfWorld, task: Task, steps: int, rng: random.Random) -> list[str]:
    """What both engines will be told: random play with one slip in ten, which does not win, then the walkthrough's
    commands (which may be understood no more)."""
    session = world.session(task)
    observation = session.reset()
    chosen: list[str] = []
    while len(chosen) < steps and not observation.done:
        action = rng.choice(SLIPS if rng.random() < 0.1 else observation.admissible)
        observation = session.step(action)
        chosen.append(action)
    return chosen if observation.done else [*chosen, *world.expert_plan(task)]


def native(path: Path, actions: Sequence[str]) -> tuple[dict[str, float], list[tuple[str, list[str]]]]:
    load, game = timed(lambda: load_game(path))
    play = HouseholdSession(game)
    reset, first = timed(play.reset)
    step, rest = timed(lambda: [play.step(action) for action in actions])
    return {"load": load, "reset": reset, "step": step}, [(o.text, list(o.admissible)) for o in [first, *rest]]


def official(path: Path, actions: Sequence[str]) -> tuple[dict[str, float], list[tuple[str, list[str]]]]:
    load, game = timed(lambda: load_official(str(path)))
    reset, first = timed(game.reset)
    step, rest = timed(lambda: [game.step(action)[0] for action in actions])
    answers = [(state.feedback, list(state.admissible_commands)) for state in [first, *rest]]
    game.close()
    return {"load": load, "reset": reset, "step": step}, answers


def until_done(world: AlfWorld, task: Task, actions: list[str]) -> list[str]:
    """The commands up to the winning one: after it the two need not agree."""
    session = world.session(task)
    session.reset()
    for number, action in enumerate(actions):
        if session.step(action).done:
            return actions[: number + 1]
    return actions


def compare(world: AlfWorld, games: int, steps: int) -> dict[str, Any]:
    rng = random.Random(0)
    tasks = [task for split in ("valid_seen", "valid_unseen") for task in world.tasks(split)]
    chosen = rng.sample(tasks, games)
    scripts = [until_done(world, task, commands(world, task, steps, rng)) for task in chosen]
    native(world.root / chosen[0].id / GAME_FILE, scripts[0])
    official(world.root / chosen[0].id / GAME_FILE, scripts[0])
    seconds: dict[str, dict[str, list[float]]] = {name: {p: [] for p in PHASES} for name in ("native", "textworld")}
    for number, (task, actions) in enumerate(zip(chosen, scripts, strict=True)):
        path = world.root / task.id / GAME_FILE
        ours, answers = native(path, actions)
        theirs, wanted = official(path, actions)
        if answers != wanted:
            raise SystemExit(f"the engines disagree in {task.id}")
        for phase in PHASES:
            per = len(actions) if phase == "step" else 1
            seconds["native"][phase].append(ours[phase] / per)
            seconds["textworld"][phase].append(theirs[phase] / per)
        print(f"\r{number + 1}/{games}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for times in seconds.values():
        times["load + reset"] = [a + b for a, b in zip(times["load"], times["reset"], strict=True)]
    rows = {}
    for phase in ("load", "reset", "load + reset", "step"):
        ours_, theirs_ = (seconds[name][phase] for name in ("native", "textworld"))
        ratios = [b / a for a, b in zip(ours_, theirs_, strict=True)]
        rows[phase] = {
            "native_ms": 1e3 * statistics.median(ours_),
            "textworld_ms": 1e3 * statistics.median(theirs_),
            "ratio_of_totals": sum(theirs_) / sum(ours_),
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
        }
    return {"games": games, "commands": sum(map(len, scripts)), "phases": rows}


def rss() -> float:
    """Memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def parallel(root: str, steps: int) -> dict[str, float]:
    """128 native sessions of different games, stepped by threads; in a process of its own."""
    start = rss()
    world = AlfWorld(root)
    tasks = random.Random(0).sample(world.tasks("valid_seen"), SESSIONS)
    listed = rss()
    with ThreadPoolExecutor(THREADS) as pool:
        opening, sessions = timed(lambda: list(pool.map(world.session, tasks)))
        resetting, seen = timed(lambda: list(pool.map(lambda session: session.reset(), sessions)))
        opened = rss()
        rng, seconds = random.Random(0), 0.0
        for _ in range(steps):
            actions = [rng.choice(observation.admissible) for observation in seen]
            turn, seen = timed(lambda told=actions: list(pool.map(lambda s, a: s.step(a), sessions, told)))
            seconds += turn
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "sessions": SESSIONS,
        "threads": THREADS,
        "rounds": steps,
        "rss_start_mb": start,
        "rss_listed_mb": listed,
        "rss_opened_mb": opened,
        "rss_peak_mb": peak,
        "open_all_s": opening + resetting,
        "steps_per_s": SESSIONS * steps / seconds,
    }


def machine() -> dict[str, str]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    packages = {name: version(name) for name in ("alfworld", "textworld")}
    return {"cpu": f"{os.cpu_count()} × {model}", "python": platform.python_version(), **packages}


def markdown(report: dict[str, Any]) -> str:
    games, many = report["compared"], report["parallel"]
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        "# Real ALFWorld games: native engine against textworld",
        "",
        f"`{report['command']}`",
        f"on {facts}; {report['date']}.",
        "",
        f"{games['games']} games of valid_seen and valid_unseen, {games['commands']} commands, the same for both, in",
        "one process and in turn; every answer and every list of admissible commands was equal. Median over the games",
        "in ms; a step is one command with its list of admissible commands.",
        "",
        "| | native | textworld | ratio of totals | median ratio | least ratio | aim |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for phase, row in games["phases"].items():
        aim = f"≥ {AIMS[phase]}" if phase in AIMS else ""
        ratios = " | ".join(f"{row[key]:,.0f}" for key in ("ratio_of_totals", "ratio_median", "ratio_min"))
        lines.append(f"| {phase} | {row['native_ms']:.3f} | {row['textworld_ms']:,.1f} | {ratios} | {aim} |")
    lines += [
        "",
        f"{many['sessions']} native sessions of as many games in one fresh process, {many['threads']} threads, "
        f"{many['rounds']} random steps each:",
        f"peak memory {many['rss_peak_mb']:.0f} MB (aim ≤ 500; {many['rss_start_mb']:.0f} MB before), all opened in "
        f"{many['open_all_s']:.2f} s, {many['steps_per_s']:,.0f} steps/s.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = PlainParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of json_2.1.1 (default: $ALFWORLD_DATA, ~/.cache/alfworld)")
    parser.add_argument("--games", type=int, default=60)
    parser.add_argument("--steps", type=int, default=40, help="random commands a game, before its walkthrough")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "benchmarks")
    parser.add_argument("--parallel-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    world = AlfWorld(options.root)
    root = str(world.root)
    if options.parallel_only:
        print(json.dumps(parallel(root, 50)))
        return
    command = [sys.executable, __file__, "--parallel-only", "--root", root]
    many = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    report = {
        "command": f"python scripts/bench_alfworld.py --games {options.games} --steps {options.steps}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "compared": compare(world, options.games, options.steps),
        "parallel": many,
    }
    options.out.mkdir(exist_ok=True)
    (options.out / "alfworld.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "alfworld.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    run_script(main)
