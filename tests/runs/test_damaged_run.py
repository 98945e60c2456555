"""Run folders with damaged files, foreign files and planted links: resumed, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import episodes, fit_here, metrics, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("whole"), "--trainer.max_epochs", "2")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sdar_pl"])
        return fit_here(tmp_path_factory.mktemp("short"), "--trainer.max_epochs", "1")


def equal(run: Path, other: Path) -> None:
    assert metrics(run) == metrics(other)
    assert episodes(run) == episodes(other)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(run).items())


@pytest.mark.filterwarnings("ignore:.*damaged lines")
def test_damage_that_is_mended(short: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(short, tmp_path / "run"))
    for name, damage in {"metrics.csv": b"2,0.", "episodes.jsonl": b'{"iteration": 1, "\0'}.items():
        (run / name).write_bytes((run / name).read_bytes() + damage)
    (run / "config.yaml").unlink()
    (run / "hparams.yaml").mkdir()
    (run / "summary.json").write_text("{")
    (run / "checkpoints" / "iteration-mine.ckpt").write_text("mine")
    (run / "checkpoints" / ".last.ckpt.partial").write_text("half")
    (run / "adapter" / "left over").write_text("")
    equal(fit_here(tmp_path, "--ckpt_path", "last"), whole)
    assert (run / "checkpoints" / "iteration-mine.ckpt").read_text() == "mine"
    assert json.loads((run / "summary.json").read_text())["iterations"] == [0, 2]


@pytest.mark.parametrize("name", ["metrics.csv", "episodes.jsonl", "config.yaml", "summary.json"])
def test_a_folder_in_place_of_a_file_is_named(
    name: str, short: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(short, tmp_path / "run"))
    (run / name).unlink()
    (run / name).mkdir()
    fit_here(tmp_path, "--ckpt_path", "last", status=2)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {run / name}: Is a directory; move it away"), errors


def test_links_are_not_followed(short: Path, whole: Path, tmp_path: Path) -> None:
    """Links to files and a folder of the user's in place of all that a run writes."""
    run, precious = Path(shutil.copytree(short, tmp_path / "run")), tmp_path / "precious"
    (precious / "folder").mkdir(parents=True)
    for number, name in enumerate(
        [
            "config.yaml",
            "summary.json",
            ".metrics.csv.partial",
            "checkpoints/best.ckpt",
            "checkpoints/.last.ckpt.partial",
        ]
    ):
        (precious / str(number)).write_text("precious")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious / str(number))
    shutil.rmtree(run / "adapter")
    (run / "adapter").symlink_to(precious / "folder")
    (run / "hparams.yaml").symlink_to(precious / "new")
    equal(fit_here(tmp_path, "--ckpt_path", "last"), whole)
    assert {path.read_text() for path in precious.glob("?")} == {"precious"}
    assert not list((precious / "folder").iterdir())
    assert not (precious / "new").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("checkpoints", "is a symbolic link"), ("episodes.jsonl", "symbolic link")]
)
def test_links_that_cannot_be_replaced_are_refused(
    name: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a folder of another run that has left nothing but a link."""
    elsewhere = tmp_path / "elsewhere"
    run = fit_here(tmp_path, "--trainer.max_epochs", "1")
    if name == "checkpoints":
        shutil.move(run / name, elsewhere)
        (run / name).symlink_to(elsewhere)
        fit_here(tmp_path, "--ckpt_path", str(run / name / "last.ckpt"), status=2)
    else:
        (run / name).unlink()
        (run / name).symlink_to(elsewhere)  # to nothing
        fit_here(tmp_path, "--ckpt_path", "last", status=2)
        assert not elsewhere.exists()
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {run / name}: ")
    assert words in errors[0]
