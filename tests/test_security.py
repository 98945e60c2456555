"""The promises of SECURITY.md: files of others are data, and the ranks of one machine listen on its loopback only."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from helpers import ROOT
from helpers.runs import ENVIRONMENT, command

from sdar_pl.environments.alfworld import FOLDER, GAME_FILE, AlfWorld
from sdar_pl.errors import UserError
from sdar_pl.runtime.checkpoint_files import checkpoint_problem, read_checkpoint
from sdar_pl.skills.library import SkillLibrary

SOURCES = [path for folder in ("sdar_pl", "callbacks", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]


class Payload:
    """Writes the file ``pwned`` where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the sources."""
    return [
        (path.relative_to(ROOT).as_posix(), ast.unparse(node.func), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == name), None)


def test_no_code_is_made_of_data() -> None:
    """No eval, no exec, no shell, no pickle of others, no YAML with tags, no model code of a repository."""
    found = calls()
    assert len(found) > 3000
    assert not [(file, name) for file, name, _ in found if name in ("eval", "exec", "compile", "os.system", "os.popen")]
    assert not [(file, name) for file, name, call in found if keyword_is_true(call, "shell")]
    assert not [(file, name) for file, name, call in found if keyword_is_true(call, "trust_remote_code")]
    loaders = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "shelve.open", "joblib.load", "dill.loads"}
    assert not [(file, name) for file, name, _ in found if name in loaders]
    assert not [(file, name) for file, name, call in found if keyword_is_true(call, "allow_pickle")]  # of np.load
    # ``check-env`` copies its own objects by pickle.
    pickles = {(file, name) for file, name, _ in found if name in ("pickle.load", "pickle.loads", "pickle.Unpickler")}
    assert pickles == {("sdar_pl/environments/contract/tasks.py", "pickle.loads")}
    loads = [(file, call) for file, name, call in found if name == "torch.load"]
    assert loads
    assert all(keyword(call, "weights_only") is True for _, call in loads)


def keyword_is_true(call: ast.Call, name: str) -> bool:
    return any(one.arg == name and ast.unparse(one.value) != "False" for one in call.keywords)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"sdar_pl": {}, "state_dict": {}, "more": Payload()}, tmp_path / "evil.ckpt")
    assert checkpoint_problem(tmp_path / "evil.ckpt") == "it cannot be read (UnpicklingError)"
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "pwned").exists(), "the payload works"


def test_a_skill_is_text(tmp_path: Path) -> None:
    head = "name: !!python/object/apply:os.system ['touch pwned']\ndescription: x"
    (tmp_path / "evil.md").write_text(f"---\n{head}\n---\ntext\n")
    with pytest.raises(UserError, match="not valid YAML"):
        SkillLibrary.load(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_front_matter_is_read_as_strictly_as_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "twice.md").write_text("---\nname: a\nname: b\ndescription: x\n---\ntext\n")
    with pytest.raises(UserError, match="'name' stands twice"):
        SkillLibrary.load(tmp_path)


def test_a_game_that_is_not_one_is_skipped_or_refused(tmp_path: Path) -> None:
    """Nested too deep, no JSON, wrong types, huge: one line each, never the interpreter's own error."""
    folder = tmp_path / FOLDER / "train" / "pick_and_place_simple-Mug-None-Shelf-1"
    bad = {
        "deep": "[" * 100_000,
        "list": "[1]",
        "types": json.dumps({"pddl_problem": 5, "grammar": [], "walkthrough": None}),
        "binary": "\x00\x01",
    }
    for name, text in bad.items():
        (folder / name).mkdir(parents=True)
        (folder / name / GAME_FILE).write_text(text)
    with pytest.raises(UserError, match=r"no good game .*\(4 skipped; the first: "):
        AlfWorld(str(tmp_path)).tasks("train")


def listening(process: psutil.Process) -> list[str]:
    """The addresses at which a process and its children listen."""
    found = []
    for one in [process, *process.children(recursive=True)]:
        with_ports = one.net_connections(kind="inet")
        found += [connection.laddr.ip for connection in with_ports if connection.status == psutil.CONN_LISTEN]
    return found


@pytest.mark.slow
def test_ranks_listen_on_loopback_only(tmp_path: Path) -> None:
    ranks = command(tmp_path, "run", "--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "1")
    seen: list[str] = []
    with subprocess.Popen(ranks, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.DEVNULL) as run:
        process = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                seen += listening(process)
            except psutil.Error:  # it has ended in between
                continue
            time.sleep(0.1)
    assert run.returncode == 0
    assert set(seen) == {"127.0.0.1"}


def test_a_configuration_names_no_python_object(tmp_path: Path) -> None:
    """A class path is imported by name, from a key that takes a class; YAML's own tags make nothing."""
    from sdar_pl.runtime.config_files import read_config

    (tmp_path / "evil.yaml").write_text("run: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config(str(tmp_path / "evil.yaml"))
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load((tmp_path / "evil.yaml").read_text())
