"""Clips that are missing, damaged, too short, or no videos."""

import subprocess

import imageio_ffmpeg
import pytest
from tiny import moving, save_clip

from diagd_cli.clip.read import read_clip


def ffmpeg(*arguments):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)], check=True
    )


def test_missing_file(refused, tmp_path):
    assert refused(tmp_path / "no.mp4") == (
        1,
        "no.mp4 does not exist. Check the name and the folder",
    )


def test_directory(refused, tmp_path):
    (tmp_path / "clips").mkdir()
    assert refused(tmp_path / "clips") == (1, "clips is a directory. Name one video or image file")


def test_empty_file(refused, tmp_path):
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "a.mp4") == (1, "a.mp4 is empty (0 bytes). Copy or download it again")


def test_text_renamed(refused, tmp_path):
    (tmp_path / "a.mp4").write_text("not a video\n" * 50)
    hint = "Name an MP4, MOV, MKV, WebM, AVI or GIF file, or an image"
    assert refused(tmp_path / "a.mp4") == (1, f"a.mp4 is not a video file. {hint}")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(refused, clips, tmp_path, share):
    data = (clips / "hall.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: int(share * len(data))])
    code, line = refused(tmp_path / "a.mp4", "--start", 40)
    assert (
        code == 1
        and line.startswith("a.mp4 is cut short or damaged: ")
        and line.endswith("Copy or download it again")
    )


def test_audio_only(refused, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", tmp_path / "a.mp4")
    assert refused(tmp_path / "a.mp4") == (
        1,
        "a.mp4 has no video stream. Name a file with pictures, not only sound",
    )


def test_one_frame(refused, tmp_path):
    clip = save_clip(tmp_path / "a.mp4", moving(1))
    assert refused(clip) == (1, "a.mp4 has 1 frame, and the preset needs 2. Give a longer clip")


def test_fewer_frames_than_the_context(refused, tmp_path):
    clip = save_clip(tmp_path / "a.mp4", moving(3))
    assert refused(clip, preset="freedoom") == (
        1,
        "a.mp4 has 3 frames, and the preset needs 4. Give a longer clip",
    )


@pytest.mark.parametrize("height, width", [(1, 1), (17, 23), (121, 161), (9, 300)])
def test_any_size_works(diagd, tiny, tmp_path, height, width):
    save_clip(tmp_path / "a.mp4", moving(3, height, width))
    done = diagd("generate", tmp_path / "a.mp4", "-p", tiny.preset, "-o", tmp_path / "out")
    assert done.code == 0 and read_clip(tmp_path / "out" / "a.mp4", 5).frames.shape == (
        5,
        16,
        24,
        3,
    )
