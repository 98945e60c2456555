"""Tiny shopper and tiny researcher: their teachers are better, and a run of each learns and survives outages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS
from helpers.runs import run_here, same
from helpers.servers import Peer, served_by

from sdar_pl.environments.search_qa.fiction import encyclopaedia
from sdar_pl.retrieval.bm25 import BM25

SMALL = [
    *["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--data.panel_tasks", "4"],
    *["--data.tasks_per_iteration", "2", "--data.group_size", "4", "--run", "run"],
]


def config(environment: str) -> list[str]:
    return ["--config", str(CONFIGS / environment / "tiny.yaml")]


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["webshop", "search_qa"])
def test_the_teacher_that_reads_skills_is_better(environment: str, tmp_path: Path) -> None:
    """By more than the half width of either interval."""
    success = {}
    for context in (False, True):
        options = ["--trainer.default_root_dir", str(tmp_path / str(context)), "--data.panel_tasks", "128"]
        run = run_here("validate", *config(environment), *options, "--data.evaluate_with_context", str(context).lower())
        success[context] = json.loads((run / "validate.json").read_text())["success"]
    assert success[True] > success[False] + 0.1, success


@pytest.mark.slow
def test_a_shopper_s_run_logs_scores(tmp_path: Path) -> None:
    run = run_here("fit", *config("webshop"), *SMALL, "--trainer.default_root_dir", str(tmp_path))
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert all(line["success"] == (line["score"] == 1.0) for line in lines)
    names = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/score", "val/score"} <= set(names)


@pytest.mark.slow
def test_a_run_whose_retriever_goes_down_is_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The outage ends the run in one line; the resumed run is the undisturbed one bit for bit."""
    index = BM25.of(encyclopaedia().passages)

    def answer(body: dict[str, Any]) -> Any:
        if asked() >= limit:
            peer.fault = "500"  # from the next request on
        found = index.retrieve(body["queries"], body["topk"])
        return {"result": [[{"id": p.id, "contents": p.contents} for p in passages] for passages in found]}

    def asked() -> int:
        return sum(len(body["queries"]) for body in peer.bodies)

    peer, limit = Peer(answer), 10**9
    with served_by(peer) as url:
        retriever = {"class_path": "sdar_pl.retrieval.http.HttpRetriever", "init_args": {"url": url, "retries": 0}}
        base = [*config("search_qa"), *SMALL, "--data.environment.init_args.retriever", json.dumps(retriever)]
        whole = run_here("fit", *base, "--trainer.default_root_dir", str(tmp_path / "whole"))
        limit = int(0.7 * asked())
        peer.bodies.clear()
        capfd.readouterr()
        broken = run_here("fit", *base, "--trainer.default_root_dir", str(tmp_path / "broken"), status=2)
        error = capfd.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, error
        assert f"retriever.init_args.url: {url} gives no answer after 1 tries (the last: Server error '500" in lines[0]
        assert "then resume the run" in lines[0]
        assert "Traceback" not in error
        peer.fault, limit = "", 10**9
        last = broken / "checkpoints" / "last.ckpt"
        resumed = run_here(
            "fit", *base, "--trainer.default_root_dir", str(tmp_path / "broken"), "--ckpt_path", str(last)
        )
    assert resumed == broken
    same(whole, resumed)
