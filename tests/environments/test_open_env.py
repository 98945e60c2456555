"""OpenEnvClient against a real OpenEnv server, in a process of its own."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import CONFIGS, ROOT
from helpers.evidence import required
from helpers.pages import named_blocks
from helpers.runs import TINY, metrics, run_here

from sdar_pl.environments.contract import Subject, check
from sdar_pl.environments.gym_text import GymText, World
from sdar_pl.environments.open_env import OpenEnvClient
from sdar_pl.errors import UserError

CLIENT = "sdar_pl.environments.open_env.OpenEnvClient"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    required("openenv", "OpenEnvClient is tested with the real server; pip install openenv-core")
    required("websockets", "pip install 'sdar_pl[openenv]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(ROOT / "tests" / "helpers" / "open_env_server.py"), str(port)])
    found = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{found}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield found
    finally:
        server.terminate()
        server.wait()


def world(url: str, **arguments: Any) -> GymText:
    return GymText({"guess": World(CLIENT, {"url": url, "reads": ["text"], **arguments})}, train_tasks=40)


@pytest.mark.slow
def test_it_keeps_the_contract(url: str) -> None:
    report = check(Subject(lambda: world(url), ("train", "validation", "test"), episodes=3))
    assert not report.violations
    assert set(report.unchecked) == {"admissible", "expert_plan"}


@pytest.mark.slow
def test_an_episode(url: str) -> None:
    task = world(url).tasks("train")[0]
    session = world(url).session(task)
    assert session.reset().text == "Guess my number from 1 to 9."
    assert session.step("seven").text == "That is no number."
    low, high, seen = 1, 9, session.step("5")
    while not seen.done:
        low, high = (6, high) if seen.text == "Higher." else (low, 4)
        seen = session.step(str((low + high) // 2))
    assert seen.success == (seen.text == "Right.") == (seen.reward == 1.0)
    session.close()
    # All fields, messages by their contents; other arguments of reset.
    one = OpenEnvClient(url, reset={"most": 1})
    assert one.reset(3)[0] == "text: Guess my number from 1 to 9.\nmessages: hello\nyou"
    assert one.step("1")[1:4] == (1.0, True, False)
    one.close()


@pytest.mark.slow
def test_an_action_that_the_server_refuses_costs_a_turn(url: str) -> None:
    client = OpenEnvClient(url, fixed={"remark": 7}, reads=["text"])
    client.reset(1)
    assert client.step("5")[:3] == ("Invalid message", 0.0, False)
    client.close()


@pytest.mark.slow
def test_a_full_server_is_named(url: str) -> None:
    clients = [OpenEnvClient(url) for _ in range(5)]
    try:
        for client in clients[:4]:
            client.reset(1)
        with pytest.raises(ConnectionError, match=r"CAPACITY_REACHED.*; start it with more concurrent environments"):
            clients[4].reset(1)
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
def test_the_page_s_world_trains(url: str, tmp_path: Path) -> None:
    text = named_blocks(ROOT / "docs" / "other_environments.md")["guess.yaml"]
    assert text.count("http://localhost:8000") == 1
    (tmp_path / "guess.yaml").write_text(text.replace("http://localhost:8000", url))
    configs = ["--config", str(CONFIGS / "other_environments" / "gym_text.yaml"), "--config", "guess.yaml"]
    settings = dict(zip(TINY[::2], TINY[1::2], strict=True))
    settings |= {"--trainer.max_epochs": "1", "--data.environment.init_args.validation_tasks": "4"}
    settings |= {"--trainer.default_root_dir": str(tmp_path), "--data.tasks_per_iteration": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        row = metrics(run_here("fit", *configs, *(word for pair in settings.items() for word in pair)))[-1]
    assert math.isfinite(row["loss/total"])
    assert math.isfinite(row["gap/mean"])
    assert "val/success/guess" in row, "no other world"
    assert not any("lake" in name for name in row)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "word"}, "action: .* has no field 'word'; it has metadata, number, remark"),
        ({"fixed": {"number": 3}}, "action: .* requires none; name the one"),
        ({"reads": ["story"]}, "reads: an observation of .* has text, messages, and no story"),
    ],
)
def test_fields_that_are_not_there(arguments: dict[str, Any], message: str, url: str) -> None:
    with pytest.raises(UserError, match=f"^data.environment.worlds: {message}"):
        OpenEnvClient(url, **arguments).reset(1)


def test_no_server_is_one_line() -> None:
    with pytest.raises(UserError, match=r"worlds: url: http://127.0.0.1:9/schema: ConnectError: .*; name a running"):
        OpenEnvClient("http://127.0.0.1:9")
    with pytest.raises(UserError, match="name a running OpenEnv server"):
        OpenEnvClient("not an address")
