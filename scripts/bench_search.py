"""How fast is the embedded retriever: index build, query latency, served queries, memory.

Synthetic passages of 60 words from a Zipf vocabulary of 200,000; queries of three words of one passage. Each
measurement runs in a process of its own. Served: ``serve-retriever`` on loopback, and clients that each wait for an
answer before the next query, in another process on the same cores. Writes benchmarks/search.json and search.md.

Run: python scripts/bench_search.py [--sizes 100000 1000000] [--clients 64] [--queries 4000]
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _common import in_words, machine, run_script

from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.retrieval.corpus import parse
from sdar_pl.runtime.messages import PlainParser

VOCABULARY, LENGTH, TOPK = 200_000, 60, 3
AIMS = {"embedded_per_s": 2000, "served_p99_ms": 50, "build_gib": 4}


def write_corpus(path: Path, passages: int) -> None:
    """Words w0, w1, … with frequencies 1/rank."""
    rng = np.random.default_rng(0)
    cumulative = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    with path.open("w") as file:
        for first in range(0, passages, 10_000):
            drawn = np.searchsorted(cumulative, rng.random((min(10_000, passages - first), LENGTH)) * cumulative[-1])
            for number, row in enumerate(drawn, first):
                text = " ".join(f"w{word}" for word in row)
                file.write(f'{{"id": "{number}", "title": "p{number}", "text": "{text}"}}\n')


def queries_of(corpus: Path, number: int) -> list[str]:
    """Three words of each of the first passages."""
    rng = np.random.default_rng(1)
    found = []
    with corpus.open("rb") as lines:
        for line in lines:
            found.append(" ".join(rng.choice(parse(line, "").text.split(), 3, replace=False)))
            if len(found) == number:
                break
    return found


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(corpus: Path) -> dict[str, float]:
    began = time.perf_counter()
    BM25(str(corpus))
    folder = corpus.with_name(corpus.name + ".bm25")
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"build_s": time.perf_counter() - began, "build_gib": peak_gib(), "index_gib": size / 2**30}


def query(corpus: Path, number: int) -> dict[str, float]:
    queries, began = queries_of(corpus, number), time.perf_counter()
    index = BM25(str(corpus))
    load = time.perf_counter() - began
    index.retrieve(queries[:200], TOPK)
    times = []
    for words in queries:
        began = time.perf_counter()
        index.retrieve([words], TOPK)
        times.append(time.perf_counter() - began)
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda words: index.retrieve([words], TOPK), queries))
        wall = time.perf_counter() - began
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {
        "load_s": load,
        "embedded_p50_ms": float(p50),
        "embedded_p99_ms": float(p99),
        "embedded_per_s": len(queries) / wall,
        "query_gib": peak_gib(),
    }


def serve(corpus: Path, number: int, clients: int) -> dict[str, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sdar_pl", "serve-retriever", "--corpus", str(corpus), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        queries = queries_of(corpus, number)
        asyncio.run(ask_all(port, queries[: 4 * clients], clients))
        began = time.perf_counter()
        times = asyncio.run(ask_all(port, queries, clients))
        wall = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"served_p50_ms": float(p50), "served_p99_ms": float(p99), "served_per_s": len(queries) / wall}


async def ask_all(port: int, queries: list[str], clients: int) -> list[float]:
    """Seconds of every query, asked by ``clients`` at a time over one connection each."""
    left, times = iter(queries), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for words in left:
            body = json.dumps({"queries": [words], "topk": TOPK, "return_scores": True}).encode()
            began = time.perf_counter()
            writer.write(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times


def in_fresh_process(what: str, corpus: Path, args: Any) -> dict[str, float]:
    words = ["--part", what, "--corpus", str(corpus), "--queries", str(args.queries), "--clients", str(args.clients)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = PlainParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--part", choices=("build", "query", "serve"), help="measure one part, in this process")
    parser.add_argument("--corpus", type=Path)
    args = parser.parse_args()
    if args.part:
        parts = {"build": build, "query": query, "serve": serve}
        rest = {"build": [], "query": [args.queries], "serve": [args.queries, args.clients]}[args.part]
        print(json.dumps(parts[args.part](args.corpus, *rest)))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            corpus = Path(folder, f"{size}.jsonl")
            write_corpus(corpus, size)
            runs[str(size)] = {}
            for part in ("build", "query", "serve"):
                runs[str(size)] |= in_fresh_process(part, corpus, args)
                print(f"{size:,} passages, {part}: {runs[str(size)]}", flush=True)
    report(runs, args)


def report(runs: dict[str, dict[str, float]], args: Any) -> None:
    command = f"python scripts/bench_search.py {shlex.join(sys.argv[1:])}".strip()
    found = {**machine(), "load": round(os.getloadavg()[0], 1)}
    day = str(date.today())
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": command, "date": day, "machine": found, "aims": AIMS, "runs": runs}, indent=2)
    (args.out / "search.json").write_text(text + "\n")
    cells = (
        ("index built", "build_s", "{:.0f} s", ""),
        ("peak memory of the build", "build_gib", "{:.2f} GiB", "≤ 4 GiB at 1M"),
        ("index on disk", "index_gib", "{:.2f} GiB", ""),
        ("index loaded", "load_s", "{:.2f} s", ""),
        ("embedded, one thread, p50", "embedded_p50_ms", "{:.2f} ms", ""),
        ("embedded, one thread, p99", "embedded_p99_ms", "{:.2f} ms", ""),
        ("embedded, all cores", "embedded_per_s", "{:,.0f} queries/s", "≥ 2,000 at 100k"),
        ("peak memory of the queries", "query_gib", "{:.2f} GiB", ""),
        (f"served to {args.clients} clients", "served_per_s", "{:,.0f} queries/s", ""),
        (f"served to {args.clients} clients, p50", "served_p50_ms", "{:.0f} ms", ""),
        (f"served to {args.clients} clients, p99", "served_p99_ms", "{:.0f} ms", "≤ 50 ms"),
    )
    head = f"| | {' | '.join(f'{int(size):,} passages' for size in runs)} | aim |"
    rows = [
        f"| {name} | {' | '.join(form.format(run[key]) for run in runs.values())} | {aim} |"
        for name, key, form, aim in cells
    ]
    lines = [
        *(
            "# Retrieval",
            "",
            f"`{command}`",
            f"on {in_words({name: str(value) for name, value in found.items()})}; {day}.",
            "",
        ),
        "Load is the machine's average number of running processes when the last measurement ended, this one included.",
        *("", head, "|---|" + "---:|" * (len(runs) + 1), *rows),
    ]
    (args.out / "search.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_script(main)
