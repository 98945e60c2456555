"""Atomic writes: the old content or the new one, and nothing beside it."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from sdar_pl.runtime.files import replacing, writing


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
    with replacing(tmp_path / "adapter") as partial:
        partial.mkdir()
        for name in ("config", "weights"):
            (partial / name).write_text(name)
    assert order == [fsync, rename, fsync, fsync]


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


@pytest.mark.parametrize("exchange", [True, False])
def test_a_reader_always_finds_the_folder(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux exchanges the names in one step. Elsewhere (here: without renameat2) the result is the same."""
    if not exchange:
        monkeypatch.setattr("sdar_pl.runtime.files._exchange", lambda *_: False)
    folder, missing, ended = tmp_path / "adapter", [], threading.Event()
    with replacing(folder) as partial:
        partial.mkdir()
        (partial / "file").write_text("")

    def read() -> None:
        while not ended.is_set():
            if not (folder / "file").exists():
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        with replacing(folder) as partial:
            partial.mkdir()
            (partial / "file").write_text(str(number))
            for extra in range(20):  # removing a folder takes time
                (partial / str(extra)).write_text("")
    ended.set()
    reader.join()
    assert (folder / "file").read_text() == "199"
    assert names(tmp_path) == ["adapter"]
    assert not (exchange and missing)


def test_links_are_replaced_or_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "target" / "a")
    (tmp_path / "folder").symlink_to(tmp_path / "target")
    (tmp_path / ".file.partial").symlink_to(tmp_path / "target" / "a")
    with replacing(tmp_path / "file") as partial:
        partial.write_text("new")
    with replacing(tmp_path / "folder") as partial:
        partial.mkdir()
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
    assert not (tmp_path / "folder").is_symlink()
    (tmp_path / "log").symlink_to(tmp_path / "target" / "a")
    for mode in ("a", "w"):
        with pytest.raises(OSError) as error:
            writing(tmp_path / "log", mode)
        assert error.value.errno == errno.ELOOP
    assert (tmp_path / "target" / "a").read_text() == "precious"
    with writing(tmp_path / "new", "a") as file:
        file.write("ü\ud800")
    assert (tmp_path / "new").read_text() == "ü\\ud800"
