"""Files that are cut short or damaged: their frames are read as far as they can be, and it
is said.
"""

import random
import re

import numpy as np
import pytest
from films import X264, film
from PIL import Image

from diagd_cli.clip.read import check_clip, read_clip, read_frames
from diagd_cli.errors import ClipError

NOISE = "testsrc2=s=64x48:r=20,noise=alls=20"
KINDS = {
    "faststart.mp4": [*X264, "-g", 8, "-movflags", "+faststart"],
    "fragments.mp4": [*X264, "-g", 8, "-movflags", "frag_keyframe+empty_moov"],
    "a.mkv": [*X264, "-g", 8],
    "vp8.webm": ["-c:v", "libvpx", "-g", 8, "-b:v", "1M"],
    "vp9.webm": [
        "-c:v",
        "libvpx-vp9",
        "-g",
        8,
        "-deadline",
        "realtime",
        "-cpu-used",
        8,
        "-b:v",
        "1M",
    ],
    "a.ts": [*X264, "-g", 8],
    "mpeg4.avi": ["-c:v", "mpeg4", "-g", 8, "-bf", 2],
    "jpeg.avi": ["-c:v", "mjpeg"],
    "a.mpg": ["-c:v", "mpeg2video", "-r", 25],
    "a.flv": ["-c:v", "flv", "-g", 8],
    "a.ogv": ["-c:v", "libtheora", "-g", 8, "-b:v", "1M"],
    "a.wmv": ["-c:v", "wmv2", "-g", 8],
    "a.gif": [],
}


def cut(data):
    return data[: len(data) * 6 // 10]


def holed(data):
    begin = len(data) * 6 // 10
    return data[:begin] + bytes(600) + data[begin + 600 :]


def flipped(data):
    chosen, data = random.Random(1), bytearray(data)
    for place in chosen.choices(range(len(data) // 2, len(data) * 3 // 4), k=30):
        data[place] ^= 1 << chosen.randrange(8)
    return bytes(data)


def lost(data):
    """Three packets of the pictures are missing."""
    packets = [data[n : n + 188] for n in range(0, len(data), 188)]
    pictures = [n for n, packet in enumerate(packets) if packet[1:3] in (b"\x01\x00", b"\x41\x00")]
    gone = pictures[len(pictures) // 2 :][:3]
    return b"".join(packet for n, packet in enumerate(packets) if n not in gone)


HARM = [(name, harm) for name in KINDS for harm in (cut, holed) if (name, harm) != ("a.wmv", holed)]
HARM += [
    (name, flipped) for name in ("faststart.mp4", "a.mkv", "a.ts", "mpeg4.avi", "jpeg.avi", "a.ogv")
]
HARM += [("a.ts", lost), ("a.ts", lambda data: cut(data)[: len(cut(data)) // 188 * 188 - 94])]


@pytest.mark.parametrize("name, harm", HARM)
def test_it_is_noticed(tmp_path, name, harm):
    path = film(tmp_path / name, *KINDS[name], source=NOISE)
    whole = read_clip(path, 1)
    assert whole.damage is None
    path.write_bytes(harm(path.read_bytes()))
    clip = read_clip(path, 1)
    assert re.match(r"cut short or damaged: \d+ (of \d+ )?frames?.* can be read", clip.damage), (
        clip.damage
    )
    assert clip.first <= whole.first
    message = re.escape(f"{path} is {clip.damage}. Copy or download it again, or leave it out")
    with pytest.raises(ClipError, match=message):
        read_clip(path, 1, whole=True)
    with pytest.raises(ClipError, match="is cut short or damaged"):
        list(read_frames(path))


def test_what_was_expected_and_what_was_read(tmp_path):
    path = film(tmp_path / "a.mkv", *X264, "-g", 8, source=NOISE)
    size = path.stat().st_size
    path.write_bytes(cut(path.read_bytes()))
    clip = read_clip(path, 2)
    message = f"cut short or damaged: {clip.first + 2} of 24 frames can be read"
    assert (
        clip.damage.startswith(message)
        and f"{size * 6 // 10} of its {size} bytes are there" in clip.damage
    )
    assert 0 < clip.first < 20


def test_a_cut_is_seen_without_decoding(tmp_path):
    path = film(tmp_path / "a.mkv", *X264, source=NOISE)
    check_clip(path, whole=True)
    path.write_bytes(cut(path.read_bytes()))
    check_clip(path)
    with pytest.raises(ClipError, match=r"a\.mkv is cut short or damaged"):
        check_clip(path, whole=True)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "film.png", "film.webp"])
def test_cut_images_are_refused(tmp_path, name):
    noise = [Image.effect_noise((64, 64), 50 + n).convert("RGB") for n in range(4)]
    more = (
        {"save_all": True, "append_images": noise[1:], "duration": 50}
        if name.startswith("film")
        else {}
    )
    noise[0].save(tmp_path / name, **more)
    assert read_clip(tmp_path / name, 1).first == (3 if more else 0)
    (tmp_path / name).write_bytes(cut((tmp_path / name).read_bytes()))
    with pytest.raises(ClipError, match="is damaged or not a"):
        read_clip(tmp_path / name, 1)


def test_a_cut_recording_is_refused(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        images=np.zeros((4, 8, 8, 3), np.uint8),
        actions=np.zeros((4, 16), np.float32),
    )
    (tmp_path / "a.npz").write_bytes(cut((tmp_path / "a.npz").read_bytes()))
    with pytest.raises(ClipError, match="damaged"):
        read_clip(tmp_path / "a.npz", 1)
