"""Bad input ends in one line that names the key and its file or option, with status 2; nothing is written.

The cases stand in helpers/bad_input.py and helpers/bad_lines.py.
A tenth of them runs in the fast suite, all of them in the slow one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.bad_input import OPTIONS, YAML
from helpers.bad_lines import BAD_FILES, LINES, SCRIPTS
from helpers.runs import ENVIRONMENT

from sdar_pl.cli import main
from sdar_pl.runtime.processes import RUN_FOLDER

#: in front of each case, so that one which is not refused ends at once
SHORT = ["--trainer.max_epochs", "0", "--trainer.num_sanity_val_steps", "0"]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
Case = tuple[str, ...]


def rows(table: Sequence[Any]) -> list[Any]:
    """The table's rows as parameters; nine of ten are slow."""
    return [pytest.param(row, id=str(row[0])[:50], marks=[] if n % 10 == 5 else [pytest.mark.slow])
            for n, row in enumerate(table)]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with everything that the tables name."""
    for name, content in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "skill.md")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    return tmp_path


def complaint(files: Path, capfd: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """The one line that a command line ends in; nothing else is printed on stderr, and nothing is written."""
    before = sorted(files.rglob("*"))
    status = main(arguments)
    printed = capfd.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
    assert status == 2, printed
    assert len(lines) == 1, printed
    assert lines[0].startswith("error: "), printed
    assert "Traceback" not in printed.out + printed.err
    assert len(lines[0]) < 900
    written = [path for path in files.rglob("*") if path not in before and path.suffix != ".pyc"]
    assert not [path for path in written if path.name != "__pycache__"]
    return lines[0]


def says(line: str, words: Sequence[str]) -> None:
    assert all(word in line for word in words), f"{line}\nlacks {[word for word in words if word not in line]}"


@pytest.mark.parametrize("case", rows(YAML))
def test_a_configuration(case: Case, files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, *words = case
    (files / "mine.yaml").write_text(text + "\n")
    line = complaint(files, capfd, ["fit", "--config", QUICKSTART, *SHORT, "--config", "mine.yaml"])
    says(line, [*words, "in mine.yaml)"])


@pytest.mark.parametrize("case", rows(OPTIONS))
def test_options(case: tuple[Any, ...], files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options, *words = case
    says(complaint(files, capfd, ["fit", "--config", QUICKSTART, *SHORT, *options]), words)


@pytest.mark.parametrize("case", rows(LINES))
def test_a_command_line(case: Case, files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line, *words = case
    says(complaint(files, capfd, [word.replace("QUICKSTART", QUICKSTART) for word in line.split()]), words)


@pytest.mark.slow
@pytest.mark.parametrize("line", [row for row in LINES if row[0].count(" ") < 3][::4], ids=lambda row: row[0])
def test_in_a_process_of_its_own(line: Case, files: Path) -> None:
    command = [sys.executable, "-m", "sdar_pl", *line[0].replace("QUICKSTART", QUICKSTART).split()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=files, timeout=300)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    says(done.stderr, line[1:])


@pytest.mark.slow
@pytest.mark.parametrize("line", SCRIPTS, ids=lambda row: row[0])
def test_scripts(line: Case, files: Path) -> None:
    script, *options = line[0].split()
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=files, timeout=300)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    says(done.stderr, ["error: ", *line[1:]])


def test_a_byte_order_mark_is_read_over(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + Path(QUICKSTART).read_bytes())
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "bom.yaml", "--model.optimizer.init_args.lr", "2e-3", "--print_config"])
    assert ended.value.code == 0
    assert "lr: 0.002" in capsys.readouterr().out  # YAML 1.1 reads 2e-3 as a text


def test_the_table_is_long() -> None:
    assert len(YAML) + len(OPTIONS) + len(LINES) >= 250
