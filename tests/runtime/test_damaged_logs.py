"""Damaged logs are mended with a warning, or named in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdar_pl.callbacks.episode_log import forget_after
from sdar_pl.errors import UserError
from sdar_pl.runtime.messages import problem_of_file
from sdar_pl.runtime.metrics_csv import read_rows

GOOD = "step,a,b\n0,0.5,\n1,1.0,2.0\n"


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        ("1", 1),  # of a row 12, cut off
        ("2,0.5", 1),
        ("2,0.5,0.25", 1),  # whole or cut off, who knows
        ("2,\0\0\0\n3,1,1\0\n", 2),
        ("two,1,1\n", 1),
        ("2,1,1,1\n\n", 2),
        ('2,"1\n', 1),
        ("\0" * 5000, 1),
    ],
)
def test_damaged_rows_are_left_out(damage: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(GOOD + damage)
    with pytest.warns(UserWarning, match=f"metrics.csv: {number} damaged lines are left out"):
        rows = read_rows(path)
    assert rows == {0: {"step": "0", "a": "0.5"}, 1: {"step": "1", "a": "1.0", "b": "2.0"}}
    path.write_bytes(GOOD.encode() + b"\xff\xfe,1,1\n")
    with pytest.warns(UserWarning, match="damaged"):
        assert read_rows(path) == rows


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for text in ("", "step,a\n"):
        path.write_text(text)
        assert read_rows(path) == {}


@pytest.mark.parametrize("text", ["epoch,loss\n0,1\n", "not a table", "\0\0\0\n0,1\n", "\n0,1\n"])
def test_a_foreign_table_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"^/.*metrics\.csv: its first line is not that of a metrics\.csv; move"):
        read_rows(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (b'{"iteration": 1, "split": "tr', 1),
        (b'{"iteration": 1, "spl{"iteration": 1, "x": 1\n', 1),
        (b"\0\0\0\0\n\xff\xfe\n[]\n", 3),
        (b'{"iteration": 1, "text": "a\0"}\n', 1),
    ],
)
def test_damaged_episodes_are_left_out(damage: bytes, number: int, tmp_path: Path) -> None:
    path, good = tmp_path / "episodes.jsonl", '{"iteration": 1, "text": "größer \u2028"}\n'.encode()
    path.write_bytes(good + damage)
    with pytest.warns(UserWarning, match=rf"episodes\.jsonl: {number} damaged lines are left out"):
        forget_after(path, 1)
    assert path.read_bytes() == good
    path.write_bytes(good + b'{"iteration": 2, "text": ""}\n')
    forget_after(path, 1)
    assert path.read_bytes() == good


def test_a_problem_of_a_file_of_the_run_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "metrics.csv").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        (folder / "metrics.csv").write_text("")
    said = problem_of_file(caught.value, str(folder))
    assert re.fullmatch(r"/.*run/metrics\.csv: Is a directory; move it away", said)
    assert not problem_of_file(caught.value, str(tmp_path / "other"))
    assert not problem_of_file(caught.value, None)
    full = OSError(28, "No space left on device")
    assert problem_of_file(full, str(folder)).startswith(f"{folder}: No space left on device; make room")
