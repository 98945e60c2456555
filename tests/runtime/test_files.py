"""Atomic writes: the old content or the new one, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdar_pl.runtime.files import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with replacing(path) as partial:
        partial.write_text("second")
        assert path.read_text() == "first"
        assert partial.parent == path.parent, "a rename between file systems is not atomic"
    assert path.read_text() == "second"
    assert names(path.parent) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, rename = "os.fsync", "os.replace"
    monkeypatch.setattr(fsync, lambda number: order.append(fsync))
    monkeypatch.setattr(rename, lambda old, new: order.append(rename))
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert order == [fsync, rename]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    for name in ("first", "second"):
        with replacing(folder) as partial:
            partial.mkdir()
            (partial / name).write_text("")
        assert names(folder) == [name]
    with pytest.raises(ValueError), replacing(folder) as partial:  # noqa: PT012
        partial.mkdir()
        (partial / "third").write_text("")
        raise ValueError
    assert names(folder) == ["second"]
    assert names(tmp_path) == ["adapter"]


def test_what_a_killed_process_has_left_is_overwritten(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as partial:
        pass_on = partial
        partial.write_text("x")
    pass_on.mkdir()
    (pass_on / "left over").write_text("")
    with replacing(tmp_path / "a") as partial:
        partial.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]
