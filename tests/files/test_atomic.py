"""Files that belong together appear together or not at all, and what was there before a failure
still is.
"""

import os

import numpy as np
import pytest

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import OutputError
from diagd_cli.files import atomic as files
from diagd_cli.files.atomic import set_aside, together, write_json, write_npz, write_text


def content(folder):
    """Every file below a folder, hidden ones too, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_set(folder):
    write_text(folder / "a.txt", "new a")
    with VideoWriter(folder / "a.mp4", 4, 4, 10) as writer:
        writer.write(np.zeros((1, 4, 4, 3), np.uint8))
    write_json(folder / "a.json", "new b")


def test_a_set_appears_at_its_end(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with together() as held:
        write_set(tmp_path)
        assert (tmp_path / "a.txt").read_text() == "old" and not (tmp_path / "a.json").exists()
        assert held.at(tmp_path / "a.txt").read_text() == "new a"
        assert held.at(tmp_path / "other") == tmp_path / "other"
    assert (
        sorted(os.listdir(tmp_path)) == ["a.json", "a.mp4", "a.txt"]
        and (tmp_path / "a.txt").read_text() == "new a"
    )


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_set_that_is_not_completed_is_not_there(tmp_path, failure):
    """Nor are the folders that were made for it."""
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(failure), together():
        write_set(tmp_path)
        write_text(tmp_path / "new" / "folder" / "b", "b")
        raise failure
    assert content(tmp_path) == {"a.txt": b"old"} and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("link", [os.link, None])
def test_a_name_that_cannot_be_taken_gives_all_others_back(tmp_path, monkeypatch, link):
    """Where a file system has no hard links, too. Renaming begins with what was written last."""
    if link is None:
        monkeypatch.setattr(os, "link", lambda *_: os.rename("no", "links"))
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OutputError, match=r"a\.txt cannot be written: Is a directory"), together():
        write_set(tmp_path)
        (tmp_path / "a.txt").mkdir()
    assert content(tmp_path) == {"a.json": b"old"}


def test_an_interrupt_between_two_names_is_undone(tmp_path, monkeypatch):
    """A real one, once the first file has its name."""
    work, before = os.replace, {"a.json": b"old", "a.txt": b"old"}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)

    def replace(part, target):
        work(part, target)
        if str(target).endswith("a.json") and target.read_text() != "old":
            raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), together():
        write_set(tmp_path)
    assert content(tmp_path) == before


def test_a_set_within_a_set_and_a_file_written_twice(tmp_path):
    with together():
        with together():
            write_text(tmp_path / "a", "one")
        assert not (tmp_path / "a").exists()
        write_text(tmp_path / "a", "two")
    assert content(tmp_path) == {"a": b"two"}


def test_what_is_set_aside_comes_back(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new" / "file"
    old.write_text("old")
    with pytest.raises(RuntimeError), set_aside(old, new):
        assert not old.exists()
        old.write_text("half"), new.write_text("half")
        raise RuntimeError
    assert content(tmp_path) == {"old": b"old"} and os.listdir(tmp_path) == ["old"]
    with set_aside(old, new):
        old.write_text("whole")
    assert content(tmp_path) == {"old": b"whole"}


def test_long_names(tmp_path):
    """A temporary file's name is never longer than the name that a file system takes."""
    write_npz(tmp_path / ("a." + "b" * 253), a=np.zeros(1))
    write_text(tmp_path / ("a" * 255), "text")
    assert {len(name) for name in os.listdir(tmp_path)} == {255}
