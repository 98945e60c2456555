"""The benchmark scripts run, in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.vllm import vllm

SCRIPTS = ROOT / "scripts"
pytestmark = pytest.mark.slow


def run(script: str, *words: object) -> None:
    done = subprocess.run([sys.executable, SCRIPTS / script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_memory(tmp_path: Path) -> None:
    run("bench_memory.py", "--vocabularies", 8000, 64000, "--length", 256, "--chunk", 64, "--out", tmp_path)
    runs = json.loads((tmp_path / "memory.json").read_text())["runs"]
    assert runs["64000"]["plain"]["growth"] > 2 * runs["64000"]["chunked"]["growth"]
    assert "| 64,000 |" in (tmp_path / "memory.md").read_text()


def test_gpu_script_on_a_cpu(tmp_path: Path) -> None:
    words = ["--shape", "tiny", "--device", "cpu", "--prompt", "64", "--response", "8", "--skills", "16", "--runs", "1"]
    run("bench_gpu.py", *words, "--out", tmp_path)
    (found,) = json.loads((tmp_path / "gpu.json").read_text())["runs"]
    assert list(found["decoding"]) == ["growing", "slots"]
    assert all(one["tokens_per_s"] > 0 and one["mismatch"] < 0.05 for one in found["decoding"].values())
    assert found["update"]["sdpa, 32-true, sdar"]["score_s"] > found["update"]["sdpa, 32-true, grpo"]["score_s"] == 0
    assert found["update"]["prefix_tree, 32-true, grpo"]["tokens"] < found["update"]["sdpa, 32-true, grpo"]["tokens"]
    assert "| prefix_tree, lean, 32-true, sdar |" in (tmp_path / "gpu.md").read_text()
    run("bench_gpu.py", *words, "--brief", "--out", tmp_path)
    (brief,) = json.loads((tmp_path / "gpu.json").read_text())["runs"]
    assert list(brief["decoding"]) == ["slots"]
    assert list(brief["update"]) == [name for name in found["update"] if "bf16-mixed" not in name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_script_keeps_its_aim(tmp_path: Path) -> None:
    """3B in 12 GiB."""
    run("bench_gpu.py", "--shape", "3b", "--runs", 1, "--out", tmp_path)
    (found,) = json.loads((tmp_path / "gpu.json").read_text())["runs"]
    assert max(one["peak"] for one in [*found["decoding"].values(), *found["update"].values()]) <= 12 * 2**30


def test_engines(tmp_path: Path) -> None:
    vllm()  # skips where there is none
    words = ["--vllm", os.environ["SDAR_PL_VLLM"], "--shape", "tiny", "--groups", "1", "--runs", "1"]
    run("bench_engines.py", *words, "--out", tmp_path)
    (found,) = json.loads((tmp_path / "engines.json").read_text())["shapes"]
    assert min(found["tokens_per_s"]["VLLMEngine"]) > 10
    assert found["canary_s"] > 0
    assert 0 < found["client_cpu_ms"] <= found["request_ms"]
    assert "| VLLMEngine |" in (tmp_path / "engines.md").read_text()


def test_webshop(tmp_path: Path) -> None:
    run("bench_webshop.py", "--products", 300, "--data", tmp_path / "files", "--out", tmp_path)
    found = json.loads((tmp_path / "webshop.json").read_text())["runs"]["300"]
    assert 0 < found["search_ms"] <= found["search_p95_ms"]
    assert found["step_ms"] > 0
    assert "| 300 |" in (tmp_path / "webshop.md").read_text()


def test_peers_without_trl(tmp_path: Path) -> None:
    words = ["--case", "one_turn", "--shape", "tiny", "--groups", 1, "--pairs", 1]
    run("bench_peers.py", *words, "--out", tmp_path)
    found = json.loads((tmp_path / "peers.json").read_text())
    assert found["frozen"]["ours"]["apart"] < 1e-5, "the gradient of ours_fast is that of ours"
    limits = found["limits"]["one_turn"]["phases"]
    # A group's prompt of 256 tokens once, eight replies of 64.
    assert limits["update"]["tokens"] == limits["score"]["tokens"] == 256 + 8 * 64
    # By hand: 4 layers of 245,760 weights; attention 4 · 128 for each pair and layer; 8 · 64 rows of
    # the head, whose 2,048 words are 128 wide.
    pairs = 256 * 257 // 2 + 8 * (320 * 321 // 2 - 256 * 257 // 2)
    by_hand = 768 * 4 * 2 * 245_760 + 4 * 128 * 4 * pairs + 2 * 512 * 128 * 2048
    assert limits["score"]["gflop"] == pytest.approx(by_hand / 1e9, rel=1e-6)
    assert "| ours_fast |" in (tmp_path / "peers.md").read_text()


def test_growth(tmp_path: Path) -> None:
    run("bench_growth.py", "--axis", "group", "--points", 2, "--out", tmp_path)
    found = json.loads((tmp_path / "growth.json").read_text())["axes"]["group"]
    assert found["x"] == [4, 8]
    assert min(found["y"]["update_s"]) > 0
    assert found["fits"]["update_s"].keys() >= {"constant", "slope", "r2", "bend"}
    assert "| update_s |" in (tmp_path / "growth.md").read_text()


def test_profile(tmp_path: Path) -> None:
    run("bench_profile.py", "--case", "quickstart", "--setting", "fast", "--groups", 1, "--out", tmp_path)
    (found,) = json.loads((tmp_path / "profile.json").read_text())["runs"]
    assert 0 < found["update"]["products"] < 1
    assert found["tokens"]["distinct"] < found["tokens"]["of rows"]


def test_attention(tmp_path: Path) -> None:
    """Which compares the values of all ways before it times them."""
    run("bench_attention.py", "--shape", "11 M parameters", "--rounds", 1, "--out", tmp_path)
    rows = json.loads((tmp_path / "attention.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["six turns"] * 2 + ["one turn"] * 2 + ["an observation"]
    assert all(ms > 0 for row in rows for ms in row["ms"].values() if ms is not None)
