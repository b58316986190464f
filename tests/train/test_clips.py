"""What a folder of training clips may hold, and the one line about each thing that it may not."""

import os
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from tiny import moving, save_clip

from diagd_cli.clip.read import read_frames
from diagd_cli.errors import ClipError, UsageError
from diagd_cli.preset_files import load_preset
from diagd_cli.train.clips import action_rows, describe_clips, find_clips
from diagd_cli.train.data import load_episodes


@pytest.fixture(scope="module")
def preset(tiny):
    return load_preset(tiny.preset)


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        save_clip(tmp_path / f"{name}.mp4", moving(4))
    return tmp_path


def dangling(path):
    path.symlink_to("gone")


@pytest.mark.parametrize(
    "make, message",
    [
        (os.mkfifo, "is not a regular file"),
        (dangling, "does not exist"),
        (Path.mkdir, "is a directory"),
        (Path.touch, "is empty (0 bytes)"),
        (lambda path: path.write_text("text"), "is not a video file"),
    ],
)
def test_what_is_no_clip_is_named(preset, folder, make, message):
    make(folder / "c.mp4")
    with pytest.raises(ClipError) as caught:
        for split in ("train", "val"):
            load_episodes(folder, split, preset)
    assert str(caught.value).startswith(f"{folder}/c.mp4 {message}") and caught.value.hint


def test_files_of_other_programs_are_hidden(preset, folder):
    """Such as what macOS writes beside each file on a foreign disk."""
    (folder / "._a.mp4").write_bytes(b"\0" * 163)
    assert sorted(clip.name for clips in find_clips(folder, preset).values() for clip in clips) == [
        "a.mp4",
        "b.mp4",
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clip_that_was_cut_is_refused(clips, tmp_path, suffix):
    """Its first frames can be read, and the decoder ends well."""
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    # before the frames, so that it stays
    index = ["-movflags", "+faststart"] if suffix == ".mp4" else []
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        clips / "hall.mp4",
        "-c",
        "copy",
        *index,
        whole,
    ]
    subprocess.run(command, check=True)
    assert len(list(read_frames(whole))) == 44
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(
        ClipError, match=r"cut\.\w+ is cut short or damaged: \d+ of 44 frames can be read"
    ):
        list(read_frames(cut))


def test_a_name_that_is_not_utf8(preset, folder):
    name = os.fsdecode(b"bad\xff\xfe.mp4")
    save_clip(folder / "c.mp4", moving(5)).rename(folder / name)
    assert sum(len(load_episodes(folder, split, preset)) for split in ("train", "val")) == 13


@pytest.mark.parametrize(
    "names, message",
    [
        ((), "No MP4 files in {}. Put MP4 files there, or make some with"),
        (
            ("sub/a.mp4", "sub/b.mp4"),
            "No MP4 files in {0}. There is {0}/sub/a.mp4, but only the folder itself is searched",
        ),
        (
            ("train/a.mp4", "a.mp4"),
            "{}/val does not exist. Where there is train/ or val/, there must be both",
        ),
        (("train/a.mp4", "val/a.txt"), "No MP4 files in {}/val. Put MP4 files there"),
        (("a.mp4",), "{} has one clip. Training needs two or more: one of them validates"),
    ],
)
def test_folders_without_clips(preset, tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ClipError) as caught:
        find_clips(tmp_path, preset)
    assert str(caught.value).startswith(message.format(tmp_path))


def test_what_is_no_folder(preset, tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ClipError, match=r"none does not exist\. Put MP4 files there"):
        find_clips(tmp_path / "none", preset)
    with pytest.raises(ClipError, match=r"a\.mp4 cannot be read: not a directory. Name a folder"):
        find_clips(tmp_path / "a.mp4", preset)


def test_the_last_action_may_be_missing(preset, folder):
    clip, file = folder / "a.mp4", folder / "a.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    assert np.array_equal(action_rows(clip, preset, 4)[:3], preset.actions.read(file))
    file.write_text("".join(lines[:2]))
    with pytest.raises(
        UsageError,
        match=(
            r"a\.jsonl has 2 actions, and 4 frames of a\.mp4 are read. Write one action a frame"
        ),
    ):
        action_rows(clip, preset, 4)


def test_clips_are_named_in_messages():
    names = [Path("data", f"{name}.mp4") for name in "aabcde"]
    assert describe_clips("val", names[:1]) == "the clips that validate (a.mp4)"
    assert describe_clips("train", names) == "the clips that train (a.mp4, b.mp4, c.mp4 and 2 more)"
