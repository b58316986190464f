"""What is going to be written is tried before the work, and is never what is read."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from limits import as_nobody, small_disk

from diagd_cli.errors import DiagdError, OutputError, UsageError
from diagd_cli.files.hidden import (
    has_ended,
    hidden_name,
    is_running,
    process_name,
    remove_leftovers,
)
from diagd_cli.files.outputs import check_outputs


def refused(kind, writes, reads=(), **options):
    with pytest.raises(DiagdError) as caught:
        check_outputs(
            [(Path(path), "the file") for path in writes],
            [(path, "the clip") for path in reads],
            **options,
        )
    assert isinstance(caught.value, kind) and "\n" not in str(caught.value) and caught.value.hint
    return str(caught.value)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"precious")
    return path


def test_nothing_is_left_of_a_check(tmp_path):
    names = ["a.mp4", "new/folder/b.mp4", "new/folder/c.mp4"]
    check_outputs(
        [(tmp_path / name, "a file") for name in names], [(tmp_path / "a.mp4", "not there")]
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["name", "dots", "link", "hard link", "folder"])
def test_an_output_that_is_an_input_by_any_name(clip, tmp_path, way):
    other = tmp_path / "other.mp4"
    if way == "link":
        other.symlink_to(clip)
    if way == "hard link":
        other.hardlink_to(clip)
    if way == "folder":
        (tmp_path / "there").symlink_to("in")
    names = {
        "name": clip,
        "dots": tmp_path / "in" / ".." / "in" / "clip.mp4",
        "folder": tmp_path / "there" / "clip.mp4",
    }
    path = names.get(way, other)
    line = refused(UsageError, [path], [clip], force=True)
    about = "" if way == "name" else f": the clip {clip}"
    assert line == f"The file {path} is an input too{about}. Choose another output with -o"


def test_two_outputs_that_are_one_file(tmp_path):
    line = f"{tmp_path}/a would be both the file and the file. Choose another output with -o"
    assert refused(UsageError, [tmp_path / "a", tmp_path / "a"]) == line
    (tmp_path / "link").symlink_to(tmp_path / "a")  # which is not there yet
    both = f"{tmp_path}/a and {tmp_path}/link are one file, both the file and the file"
    assert refused(UsageError, [tmp_path / "a", tmp_path / "link"]).startswith(both)


def test_names_that_a_file_system_takes_for_one(tmp_path, monkeypatch):
    """As one that knows no upper case does; the kernel here may have none to mount."""
    work = os.open
    check_outputs([(tmp_path / "A.mp4", "one"), (tmp_path / "a.mp4", "the other")])

    def lower(path, *arguments, **options):
        path = Path(path)
        return work(path.with_name(path.name.lower()), *arguments, **options)

    monkeypatch.setattr(os, "open", lower)
    both = f"{tmp_path}/A.mp4 and {tmp_path}/a.mp4 are one file, both the file and the file"
    assert refused(UsageError, [tmp_path / "A.mp4", tmp_path / "b", tmp_path / "a.mp4"]).startswith(
        both
    )


def test_what_stdout_is_sent_to(tmp_path, monkeypatch):
    (tmp_path / "a.json").touch(), (tmp_path / "clip").touch()
    with (tmp_path / "a.json").open("a") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        line = (
            f"{tmp_path}/a.json would be both the file and what stdout is sent to. Choose another "
            "output with -o"
        )
        assert refused(UsageError, [tmp_path / "a.json"]) == line
        line = (
            f"{tmp_path}/a.json, the clip, is what stdout is sent to. Send stdout to another file"
        )
        assert refused(UsageError, [tmp_path / "b.json"], [tmp_path / "a.json"]) == line
        monkeypatch.setattr(sys, "stderr", stdout)  # both in one file: a log
        check_outputs([(tmp_path / "b.json", "the file")])


@pytest.mark.parametrize(
    "name, reason",
    [
        ("a" * 256, "file name too long. Choose a shorter name"),
        ("new/" + "a" * 256, "file name too long. Choose a shorter name"),
        ("a" * 256 + "/b", "file name too long. Choose a shorter name"),
        ("file/b", "Not a directory. Check the name and the folder"),
        ("loop/b", "Too many levels of symbolic links. Check the name and the folder"),
    ],
    ids=lambda text: text[:10],
)
def test_names_that_cannot_be(tmp_path, name, reason):
    (tmp_path / "file").touch(), (tmp_path / "loop").symlink_to("loop")
    assert (
        refused(OutputError, [tmp_path / name]) == f"{tmp_path / name} cannot be written: {reason}"
    )
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a file system that takes no files"
)
def test_a_folder_in_which_nobody_can_write():
    line = refused(OutputError, ["/proc/nope/a.mp4"])
    assert line == (
        "/proc/nope/a.mp4 cannot be written: No such file or directory. Check the name and the "
        "folder"
    )


def test_another_users_folder():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        with as_nobody():
            if os.access(folder, os.W_OK):
                pytest.skip("needs another user's folder")
            for path in (folder / "a", folder / "new" / "a"):
                assert f"{path} cannot be written: the directory {folder} is not wr" in refused(
                    OutputError, [path]
                )


def test_another_users_file_in_a_folder_for_all():
    if os.geteuid():
        pytest.skip("needs two users")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a").touch(), os.chmod(folder, 0o1777)
        with as_nobody():
            check_outputs([(folder / "b", "a file")])
            assert refused(OutputError, [folder / "a"]).startswith(
                f"{folder}/a cannot be replaced: it is another user's"
            )


def test_a_file_that_never_changes(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("kept"), kept.chmod(0o444)
    check_outputs([(kept, "a file")])  # its mode does not keep it from being replaced
    if subprocess.run(["chattr", "+i", kept], capture_output=True).returncode:
        pytest.skip("needs a file system with attributes")
    try:
        line = refused(OutputError, [kept])
    finally:
        subprocess.run(["chattr", "-i", kept], check=True)
    assert line == (
        f"{kept} cannot be written: operation not permitted. Choose a folder that you may write to"
    )


def test_full_and_read_only_disks(tmp_path):
    with small_disk(tmp_path) as disk:
        (disk / "filler").write_bytes(bytes(64 << 10))
        line = (
            f"{disk}/new/a cannot be written: no space left on device. Free some space, or write "
            "to another disk"
        )
        assert refused(OutputError, [disk / "new" / "a"]) == line
        (disk / "filler").unlink()
        check_outputs([(disk / "new" / "a", "a file")])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        line = (
            f"{disk}/a cannot be written: read-only file system. Choose a folder that you may "
            "write to"
        )
        assert refused(OutputError, [disk / "a"]) == line and os.listdir(disk) == []


def test_only_what_the_dead_have_left_is_removed(tmp_path):
    """A process of this machine that has ended; nothing of one that runs, of another place, or of
    another program.
    """
    code = "from diagd_cli.files.hidden import process_name; print(process_name())"
    dead = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not has_ended(dead):
        pytest.skip("processes cannot be told apart here")
    assert is_running(process_name()) and not is_running(dead) and not has_ended(process_name())
    number, place = dead.split("-")
    others = [
        f".diagd-{number}-{place[::-1]}-00000000.mp4",
        f".diagd-{dead}-0000000.mp4",
        f".diagd-{number}-00000000.mp4",
    ]
    kept = [hidden_name(tmp_path / "a.mp4").name, *others, f"diagd-{dead}-00000000", ".diagd-notes"]
    left = [f".diagd-{dead}-00000000.mp4", f".diagd-{dead}-00000001"]
    for name in kept + left:
        (tmp_path / name).touch()
    folder = tmp_path / f".diagd-{dead}-00000002"
    folder.mkdir(), (folder / "weights").touch()
    remove_leftovers([tmp_path, tmp_path / "not there"])
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
