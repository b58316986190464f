"""What `read_clip` returns, and the one line that each file it cannot read gives."""

import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from limits import as_nobody
from PIL import Image

from diagd_cli.clip import read
from diagd_cli.clip.read import read_clip
from diagd_cli.errors import ClipError, UsageError

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def ffmpeg(*arguments, data=b""):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def video(path, count=10, width=32, height=24, fps="10", options=X264, noise=False):
    """A video whose frame i is one grey of about 10 + 20 i, or noise."""
    frames = np.stack(
        [np.full((height, width, 3), 10 + 20 * i % 240, np.uint8) for i in range(count)]
    )
    if noise:
        frames = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        fps,
        "-i",
        "-",
    ]
    ffmpeg(*source, *options, f"file:{path}", data=frames.tobytes())
    return path


def greys(frames):
    return [round((float(frame.mean()) - 10) / 20) for frame in frames]


def error(path, context=4, **options):
    with pytest.raises(ClipError) as caught:
        read_clip(path, context, **options)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and caught.value.hint
    return line.replace(f"{Path(path).parent}/", "")


def test_last_frames_are_the_default(tmp_path):
    path = video(tmp_path / "a.mp4")
    clip = read_clip(path, 4)
    assert (clip.frames.shape, clip.frames.dtype) == ((4, 24, 32, 3), np.uint8)
    assert (clip.path, clip.first, clip.fps, clip.future.shape) == (path, 6, 10.0, (0, 24, 32, 3))
    assert greys(clip.frames) == [6, 7, 8, 9]
    assert clip.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("future, expected", [(0, []), (2, [7, 8]), (99, [7, 8, 9])])
def test_start_and_future(tmp_path, future, expected):
    clip = read_clip(video(tmp_path / "a.mp4"), 4, start=3, future=future)
    assert (clip.first, greys(clip.frames), greys(clip.future)) == (3, [3, 4, 5, 6], expected)


@pytest.mark.parametrize(
    "fps, expected", [("17.5", 17.5), ("24000/1001", 24000 / 1001), ("1/2", 0.5), ("5000", None)]
)
def test_fps(tmp_path, fps, expected):
    assert read_clip(video(tmp_path / "a.mp4", fps=fps), 1).fps == expected


def test_rotation_gives_upright_frames(tmp_path):
    ffmpeg(
        "-display_rotation",
        90,
        "-i",
        video(tmp_path / "a.mp4"),
        "-c",
        "copy",
        tmp_path / "turned.mp4",
    )
    assert read_clip(tmp_path / "turned.mp4", 2).frames.shape == (2, 32, 24, 3)


@pytest.mark.parametrize("width, height", [(161, 121), (1, 1)])
def test_odd_sizes(tmp_path, width, height):
    odd = ["-c:v", "libx264", "-pix_fmt", "yuv444p"]
    path = video(tmp_path / "a.mp4", width=width, height=height, options=odd)
    assert read_clip(path, 2).frames.shape == (2, height, width, 3)


@pytest.mark.parametrize(
    "name", ["-i.mp4", "http:x.mp4", "concat:a|b.mp4", "%03d ? * ü [error].mp4", "file:a.mp4"]
)
def test_names_are_only_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    video(tmp_path / name)
    assert read_clip(name, 4).first == 6


def test_memory_holds_the_context_only(tmp_path):
    path = video(tmp_path / "a.mp4", count=100, width=160, height=120)
    tracemalloc.start()
    read_clip(path, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 160 * 120 * 3


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_what_the_caller_raises_passes_and_closes_the_file(tmp_path, monkeypatch, failure):
    def tell(line):
        raise failure

    monkeypatch.setattr(read, "_TELL_AFTER", 0)
    path = video(tmp_path / "a.mp4", count=300)
    with pytest.raises(failure):
        read_clip(path, 4, tell=tell)
    assert not any(
        os.path.exists(file) and os.path.samefile(file, path)
        for file in Path("/proc/self/fd").iterdir()
    )


def test_what_takes_long_is_told(tmp_path, monkeypatch):
    told = []
    path = video(tmp_path / "a.mp4")
    read_clip(path, 4, tell=told.append)
    assert not told  # not within seconds
    monkeypatch.setattr(read, "_TELL_AFTER", 0)
    read_clip(path, 4, tell=told.append)
    assert told == ["reading a.mp4: 0 MiB so far"]


@pytest.mark.parametrize("suffix", sorted(read.IMAGE_FORMATS))
def test_image_is_one_frame(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    Image.new("RGB", (33, 17), (200, 100, 50)).save(path)
    clip = read_clip(path, 1)
    assert (clip.frames.shape, clip.fps, clip.first, len(clip.future)) == (
        (1, 17, 33, 3),
        None,
        0,
        0,
    )
    assert np.abs(clip.frames[0, 8, 16].astype(int) - (200, 100, 50)).max() < 8


def test_image_of_16_bits_is_scaled(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert (read_clip(tmp_path / "a.png", 1).frames == 0x80).all()


def test_missing_directory_and_empty(tmp_path):
    assert "nothing.mp4 does not exist" in error(tmp_path / "nothing.mp4")
    assert f"{tmp_path.name} is a directory" in error(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert "a.mp4 is empty (0 bytes)" in error(tmp_path / "a.mp4")
    assert "is not a regular file" in error("/dev/zero")
    assert "File name too long" in error(tmp_path / ("a" * 300))


def test_unreadable():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "a.mp4")
        path.write_bytes(b"x")
        path.chmod(0)
        with as_nobody():
            assert "a.mp4 cannot be read: permission denied" in error(path)


def test_not_a_video(tmp_path):
    for data in b"plain text\n" * 99, os.urandom(4096), b"\0" * 4096, b"\x89PNG\r\n":
        (tmp_path / "a.mp4").write_bytes(data)
        assert "a.mp4 is not a video file" in error(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.mov"])
def test_playlists_open_no_other_file(tmp_path, name):
    video(tmp_path / "secret.mp4")
    (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.mp4\n")
    ffmpeg("-i", tmp_path / name, "-f", "null", "-")  # which does open it, unless told not to
    assert "is not a video file" in error(tmp_path / name)
    (tmp_path / name).write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    )
    assert "is not a video file" in error(tmp_path / name)


def test_audio_only(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", tmp_path / "a.m4a")
    assert "a.m4a has no video stream" in error(tmp_path / "a.m4a")


def test_cut_before_the_index(tmp_path):
    data = video(tmp_path / "a.mp4", noise=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert "cut.mp4 is cut short: its index (the moov atom) is missing" in error(
        tmp_path / "cut.mp4"
    )


@pytest.mark.parametrize("codec", [X264, ["-c:v", "mjpeg"]])
def test_cut_after_the_index(tmp_path, codec):
    data = video(
        tmp_path / "a.mp4", options=[*codec, "-movflags", "+faststart"], noise=True
    ).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    line = error(tmp_path / "cut.mp4", start=6)
    found = re.search(
        r"cut.mp4 is cut short or damaged: (\d) of 10 frames can be read.* and the request needs 10",
        line,
    )
    whole = read_clip(tmp_path / "a.mp4", int(found[1]), start=0).frames
    # none of them half there
    assert (read_clip(tmp_path / "cut.mp4", len(whole)).frames == whole).all()


def test_too_short(tmp_path):
    assert "a.mp4 has 3 frames, and the preset needs 4" in error(video(tmp_path / "a.mp4", count=3))
    assert "a.mp4 has 1 frame, and the preset needs 4" in error(video(tmp_path / "a.mp4", count=1))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert "a.png has 1 frame, and the preset needs 4" in error(tmp_path / "a.png")


def test_start_beyond_the_end(tmp_path):
    path = video(tmp_path / "a.mp4")
    assert "so frame 10 is beyond its end. Start at frame 6 or before" in error(path, start=10)
    assert "too few to read 4 from frame 7 on. Start at frame 6 or before" in error(path, start=7)
    with pytest.raises(UsageError, match="The start frame is -1"):
        read_clip(path, 4, start=-1)


@pytest.mark.parametrize("side", [100_000, 16_000, 8193])
def test_absurd_sizes(tmp_path, side):
    data = bytearray(
        video(tmp_path / "a.avi", options=["-c:v", "rawvideo", "-pix_fmt", "bgr24"]).read_bytes()
    )
    header = data.index(b"strf") + 12
    data[header : header + 8] = struct.pack("<ii", side, side)
    (tmp_path / "a.avi").write_bytes(data)
    assert f"a.avi has frames of {side}x{side} pixels" in error(tmp_path / "a.avi")
    assert "a.mp4 has frames of 8194x16 pixels" in error(video(tmp_path / "a.mp4", 1, 8194, 16))


@pytest.mark.parametrize(
    "side, message", [(9000, "has frames of 9000x9000 pixels"), (60_000, "far too many pixels")]
)
def test_absurd_images(tmp_path, side, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    assert message in error(tmp_path / "a.png")


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_damaged_image(tmp_path, keep):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: int(len(data) * keep)] or b"text")
    assert "a.png is damaged or not a PNG image" in error(tmp_path / "a.png")


def test_no_ffmpeg_is_needed(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    assert greys(read_clip(path, 4).frames) == [6, 7, 8, 9]


@pytest.mark.parametrize("room", [4, 20, 40])
def test_too_little_memory_is_no_damage(tmp_path, room):
    """Decoders that get no memory call it invalid data."""
    path = video(tmp_path / "a.mp4", width=1280, height=720)
    code = f"""
import resource
import av, numpy
from diagd_cli.clip.read import read_clip
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + {room} * 1_000_000
resource.setrlimit(resource.RLIMIT_AS, (used, used))
try:
    read_clip({str(path)!r}, 4)
except MemoryError:
    print("memory")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "memory\n", done.stderr
