"""Outputs that cannot be written: they exist, may not be, or the disk is full."""

import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest
from limits import as_nobody, small_disk
from tiny import moving

from cli.bad.line import only_line
from diagd_cli.clip.image import write_png


def test_existing_output(diagd, tiny, tmp_path):
    for suffix in (".mp4", ".json"):
        kept = tmp_path / f"a{suffix}"
        kept.write_bytes(b"precious")
        done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "a.mp4")
        assert done.err == f"error: {kept} exists already. Choose another name, or replace it with --force\n"
        assert done.code == 1 and [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"]
        kept.unlink()


def test_output_below_a_file(refused, tiny, tmp_path):
    (tmp_path / "file").touch()
    code, line = refused(output=tmp_path / "file" / "a.mp4")
    assert (code, line) == (1, "file/a.mp4 cannot be written: Not a directory. Check the name and the folder")


def test_unwritable_folder(diagd, tiny, tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "still.png", moving(1)[0])  # needs no ffmpeg, which nobody may be unable to run
        (folder / "tiny.yaml").write_text(tiny.preset.read_text().replace("  least: 2", "  least: 1"))
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555)
        arguments = ["generate", folder / "still.png", "-p", folder / "tiny.yaml", "-o"]
        done = diagd(*arguments, tmp_path / "a.mp4", DIAGD_WEIGHTS=str(tiny.folder))
        assert done.code == 0  # and all that is imported has been
        with as_nobody():
            done = diagd(*arguments, folder / "a.mp4")
        message = f"{folder}/a.mp4 cannot be written: the directory {folder} is not writable"
        assert (done.code, done.err) == (1, f"error: {message}. Choose a folder that you may write to\n")
        assert not (folder / "a.mp4").exists()
        folder.chmod(0o755)


@pytest.fixture
def full_disk(tmp_path):
    """A disk without a free byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        with (disk / "filler").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    break
        yield disk


def test_disk_full(diagd, tiny, full_disk):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", full_disk / "a.mp4")
    message = f"{full_disk}/a.mp4 cannot be written: no space left on device. Free some space, or write to another disk"
    assert (done.code, done.out, done.err) == (1, "", f"error: {message}\n")
    assert os.listdir(full_disk) == ["filler"]


def test_disk_full_wherever_it_is_noticed(diagd, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("diagd_cli.config.load_preset", full)
    message = "error: A file cannot be written: no space left on device. Free some space, or write to another disk\n"
    assert diagd("plan").err == message


def test_file_size_limit(start, tiny, tmp_path):
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    process = start("generate", tiny.clip, "-p", tiny.preset, "--frames", 100, "-o", out, preexec_fn=limit)
    told, errors = process.communicate(timeout=60)
    code, line = only_line(process.returncode, told, errors, out)
    hint = "The file system or a limit (ulimit -f) allows no larger file: write elsewhere"
    assert (code, line) == (1, f"out/walk.mp4 cannot be written: file too large. {hint}")


def test_nobody_reads_stdout(start):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("presets", "show", "freedoom", stdout=writer)
    os.close(writer)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 1)


@pytest.mark.parametrize("command", [["presets", "show", "freedoom"], ["train", "--help"], ["--version"]], ids=" ".join)
@pytest.mark.parametrize("stdout, reason", [("/dev/full", "no space left on device"), (None, "it is closed")])
def test_stdout_takes_nothing(start, command, stdout, reason):
    if stdout and not os.path.exists(stdout):
        pytest.skip(f"needs {stdout}")
    closed = {"stdout": None, "preexec_fn": lambda: os.close(1)}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(stdout or os.devnull, "w") as file:
        process = start(*command, env=buffered, **({"stdout": file} if stdout else closed))
        errors = process.communicate(timeout=60)[1]
    hint = "Send it to a file or pipe that can hold it"
    message = f"error: The result cannot be written to stdout: {reason}. {hint}\n"
    assert (process.returncode, errors) == (1, message)
