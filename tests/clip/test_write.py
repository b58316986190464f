"""A written file is complete or not there, and whatever was there before a failure still is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from limits import as_nobody, small_disk, small_files
from PIL import Image

from diagd_cli.clip.image import contact_sheet, write_png
from diagd_cli.clip.read import read_clip
from diagd_cli.clip.write import STREAM_GOP, VideoWriter
from diagd_cli.errors import ClipError, OutputError
from diagd_cli.files.atomic import atomic, write_json, write_npz
from diagd_cli.files.outputs import check_outputs

OUTPUT = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def smooth(count=6, height=48, width=64):
    """Moving colour gradients, uint8 (F, H, W, 3)."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 20 + t / 5), np.cos(y / 20 - t / 7), np.sin((x + y) / 40)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def noise(count, height=240, width=320):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def save(path, frames, fps=10.0):
    with VideoWriter(path, *frames.shape[1:3], fps) as writer:
        for frame in frames:
            writer.write(frame[None])
    return path


def fails(action, *arguments, **options):
    with pytest.raises(OutputError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value) and caught.value.hint
    return str(caught.value)


def script(code, path):
    """A command that runs `code`, which may import from this file, with `path` as its argument."""
    own = Path(__file__).parent
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {[str(own), str(own.parent)]!r}\n{code}",
        str(path),
    ]


@pytest.fixture
def read_only():
    """A folder, with the file old.mp4 in it, in which nobody may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "old.mp4").write_bytes(b"old")
        os.chmod(folder, 0o555)
        with as_nobody():
            yield Path(folder)
        os.chmod(folder, 0o755)


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 64 KiB."""
    with small_disk(tmp_path) as disk:
        yield disk


def test_round_trip(tmp_path):
    frames = smooth()
    clip = read_clip(save(tmp_path / "a.mp4", frames), len(frames))
    error = np.mean((clip.frames.astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("fps", [10.0, 17.5, 24000 / 1001, 0.5, 120.0])
def test_fps_is_kept(tmp_path, fps):
    assert read_clip(save(tmp_path / "a.mp4", smooth(), fps), 1).fps == fps


@pytest.mark.parametrize("height, width", [(121, 161), (1, 1), (48, 63)])
def test_odd_sizes_repeat_the_edge(tmp_path, height, width):
    frames = smooth(height=height, width=width)
    back = read_clip(save(tmp_path / "a.mp4", frames), len(frames)).frames
    assert back.shape == (6, height + height % 2, width + width % 2, 3)
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(back.astype(int) - even).mean() < 5


def test_same_frames_same_bytes(tmp_path):
    first, second = save(tmp_path / "a.mp4", smooth()), save(tmp_path / "b.mp4", smooth())
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["-y.mp4", "http:x.mp4", "%d é.mp4", "new/folder/a.mp4"])
def test_names_are_only_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert read_clip(save(Path(name), smooth()), 6).first == 0


def test_link_stays_a_link(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    save(tmp_path / "link.mp4", smooth())
    assert (tmp_path / "link.mp4").is_symlink() and (tmp_path / "real.mp4").stat().st_size


@pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failure_leaves_things_as_they_were(tmp_path, failure, before):
    path = tmp_path / "a.mp4"
    if before:
        path.write_bytes(before)
    with pytest.raises(failure), VideoWriter(path, 48, 64, 10) as writer:
        writer.write(smooth())
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".diagd-*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(list(tmp_path.glob(".diagd-*.mp4"))) == 1
        raise failure
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("then, written", [("raise", []), ("pass", ["a.mp4"])])
def test_ctrl_c_in_a_terminal_is_for_the_caller_alone(tmp_path, then, written):
    code = (
        "import sys, time; from pathlib import Path; from test_write import VideoWriter, noise\n"
        "with VideoWriter(Path(sys.argv[1]), 240, 320, 10) as writer:\n"
        "    writer.write(noise(1))\n"
        "    try: print('ready', flush=True); time.sleep(60)\n"
        f"    except KeyboardInterrupt: {then}\n"
        "    writer.write(noise(30))\n"
    )
    with subprocess.Popen(
        script(code, tmp_path / "a.mp4"), start_new_session=True, **OUTPUT
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert ("KeyboardInterrupt" in process.communicate(timeout=20)[1]) == (then == "raise")
    assert os.listdir(tmp_path) == written
    assert not written or len(read_clip(tmp_path / "a.mp4", 31).frames) == 31


def test_a_stream_plays_while_it_grows(tmp_path):
    """Under its own name; whole fragments are there to be read, and all frames once it is
    complete.
    """
    path, frames = tmp_path / "new" / "a.mp4", smooth(3 * STREAM_GOP)
    seen, deadline = 0, time.monotonic() + 20
    with VideoWriter(path, 48, 64, 10, stream=True) as writer:
        writer.write(frames[: 2 * STREAM_GOP + 1])
        while seen < 2 * STREAM_GOP and time.monotonic() < deadline:
            time.sleep(0.05)
            with suppress(ClipError):  # not yet there, or nothing in it yet
                clip = read_clip(path, 1, start=0, future=99)
                seen = 1 + len(clip.future)
        assert seen == 2 * STREAM_GOP and os.listdir(path.parent) == ["a.mp4"]
        writer.write(frames[2 * STREAM_GOP + 1 :])
    clip = read_clip(path, len(frames))
    assert (clip.first, clip.fps) == (0, 10)
    assert (
        np.abs(
            clip.frames.astype(int) - read_clip(save(tmp_path / "b.mp4", frames), 12).frames
        ).mean()
        < 2
    )


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_stream_that_fails_is_removed(tmp_path, failure):
    with pytest.raises(failure), VideoWriter(tmp_path / "a.mp4", 48, 64, 10, stream=True) as writer:
        writer.write(smooth())
        raise failure
    assert os.listdir(tmp_path) == []


def test_a_stream_replaces_what_a_link_points_to(tmp_path):
    (tmp_path / "real.mp4").write_bytes(b"old")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    with VideoWriter(tmp_path / "link.mp4", 48, 64, 10, stream=True) as writer:
        writer.write(smooth())
    assert (tmp_path / "link.mp4").is_symlink() and len(
        read_clip(tmp_path / "real.mp4", 6).frames
    ) == 6


def test_no_frames_or_wrong_frames(tmp_path):
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 4, 4, 10):
        pass
    for frames in np.zeros((1, 4, 5, 3), np.uint8), np.zeros((1, 4, 4, 3)):
        with (
            pytest.raises(ValueError, match="frames must be"),
            VideoWriter(tmp_path / "a.mp4", 4, 4, 10) as writer,
        ):
            writer.write(frames)
    assert not list(tmp_path.iterdir())


def test_disk_full(tiny_disk):
    (tiny_disk / "a.mp4").write_bytes(b"old")
    for action, data in [(save, noise(4)), (write_png, noise(1)[0]), (write_json, "x" * 100_000)]:
        line = fails(action, tiny_disk / "a.mp4", data)
        assert "a.mp4 cannot be written: no space left on device. Free some space" in line
    assert "no space left" in fails(write_npz, tiny_disk / "a.mp4", frames=noise(1))
    assert [file.read_bytes() for file in tiny_disk.iterdir()] == [b"old"]


def test_file_size_limit(tmp_path):
    with small_files(65536):
        line = fails(save, tmp_path / "a.mp4", noise(4))
    assert "a.mp4 cannot be written: file too large" in line
    assert not list(tmp_path.iterdir())


def test_ffmpeg_dies(tmp_path):
    def dies():
        with VideoWriter(tmp_path / "a.mp4", 240, 320, 10) as writer:
            os.kill(writer._process.pid, signal.SIGKILL)
            for _ in range(100):
                writer.write(noise(1))
                time.sleep(0.01)

    assert "a.mp4 cannot be written: ffmpeg was ended by SIGKILL" in fails(dies)
    assert not list(tmp_path.iterdir())


def test_no_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    assert "ffmpeg does not start" in fails(save, tmp_path / "a.mp4", smooth())


def check_target(path, force):
    """Check one output, before any work."""
    check_outputs([(Path(path), "the output")], force=force)


def test_unwritable_folder(read_only):
    assert "is not writable" in fails(check_target, read_only / "a.mp4", False)
    assert "is not writable" in fails(check_target, read_only / "old.mp4", True)
    assert "is not writable" in fails(check_target, read_only / "new" / "a.mp4", False)
    for action, data in [(save, smooth()), (write_json, {}), (write_png, smooth()[0])]:
        assert "old.mp4 cannot be written: permission denied" in fails(
            action, read_only / "old.mp4", data
        )
    assert [file.read_bytes() for file in read_only.iterdir()] == [b"old"]


def test_check_target(tmp_path):
    check_target(tmp_path / "a.mp4", False)
    check_target(tmp_path / "new" / "folder" / "a.mp4", False)
    assert not list(tmp_path.iterdir())  # it only looks
    old = tmp_path / "old.mp4"
    old.write_bytes(b"old")
    assert "old.mp4 exists already. Choose another name, or replace it with --force" in fails(
        check_target, old, False
    )
    check_target(old, True)
    assert "is a directory. Name a file in it" in fails(check_target, tmp_path, True)
    assert "/dev/null is not a regular file" in fails(check_target, "/dev/null", True)
    assert "a.mp4 cannot be written: Not a directory" in fails(check_target, old / "a.mp4", False)
    assert "cannot be written: file name too long. Choose a shorter name" in fails(
        check_target, tmp_path / ("a" * 300), False
    )


def test_json_and_npz(tmp_path):
    write_json(tmp_path / "a.json", {"name": "é", "fps": 17.5})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "name": "é",
        "fps": 17.5,
    }
    write_npz(tmp_path / "a.tokens", path=np.arange(3), frames=smooth())
    with np.load(tmp_path / "a.tokens") as arrays:
        assert (arrays["frames"] == smooth()).all() and arrays["path"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.tokens"]


def test_atomic_keeps_the_old_file_until_the_end(tmp_path):
    (tmp_path / "a").write_text("old")
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


def test_png(tmp_path):
    write_png(tmp_path / "sheet", smooth()[0])
    with Image.open(tmp_path / "sheet") as image:
        assert image.format == "PNG" and (np.asarray(image) == smooth()[0]).all()
    with pytest.raises(ValueError):
        write_png(tmp_path / "b.png", np.zeros((4, 4, 3)))


def test_contact_sheet():
    black, grey = np.zeros((3, 4, 5, 3), np.uint8), np.full((1, 2, 9, 3), 128, np.uint8)
    sheet = contact_sheet([black, grey], gap=2)
    assert sheet.shape == (4 + 2 + 2, 3 * 5 + 2 * 2, 3) and sheet.dtype == np.uint8
    assert (sheet[:4, 7:12] == 0).all() and (sheet[6:, :9] == 128).all()
    assert (
        (sheet[4:6] == 255).all() and (sheet[6:, 9:] == 255).all() and (sheet[:4, 5:7] == 255).all()
    )
    with pytest.raises(ValueError):
        contact_sheet([])
