"""The frames of a long clip are found by a seek, and are those that decoding all of it finds."""

import numpy as np
import pytest
from films import X264, ffmpeg, film

from diagd_cli.clip import take
from diagd_cli.clip.read import read_clip

LENGTH = 600
KINDS = {
    "a.mp4": [*X264, "-bf", 2, "-g", 50],
    "fragments.mp4": [*X264, "-g", 50, "-movflags", "frag_keyframe+empty_moov"],
    "open.mkv": [*X264, "-bf", 3, "-g", 50, "-x264-params", "open-gop=1"],
    "refresh.mp4": [*X264, "-g", 50, "-x264-params", "intra-refresh=1"],
    "a.ts": [*X264, "-bf", 2, "-g", 50],
    "a.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", 16, "-threads", 1, "-g", 50],
    "a.mpg": ["-c:v", "mpeg2video", "-bf", 2, "-g", 15],
    "a.avi": ["-c:v", "mjpeg"],
    "fields.mp4": ["-vf", "interlace", *X264, "-flags", "+ildct+ilme", "-g", 50],
    "uneven.mp4": ["-vf", "select='mod(n,7)'", "-fps_mode", "passthrough", *X264, "-g", 50],
}
ASKED = [(4, None, 0), (5, 450, 3), (2, 350, 1), (4, LENGTH - 30, 99)]


@pytest.fixture
def decoded(monkeypatch):
    """The frames that were decoded, by the time steps that they have."""
    steps = []

    def counted(*arguments):
        for step, frame in decode(*arguments):
            steps.append(step)
            yield step, frame

    decode = take.decode
    monkeypatch.setattr(take, "decode", counted)
    return steps


def same(one, two):
    assert (one.first, one.fps, one.damage) == (two.first, two.fps, two.damage)
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.future, two.future)


@pytest.mark.parametrize("name", KINDS)
def test_a_seek_finds_what_decoding_finds(tmp_path, monkeypatch, decoded, name):
    path = film(tmp_path / name, *KINDS[name], count=LENGTH, fps=25, source="testsrc2=s=64x48:r=25")
    found = {}
    for worth in (100, 10**9):
        monkeypatch.setattr(take, "_WORTH", worth)
        for asked in ASKED:
            decoded.clear()
            found[worth, asked] = read_clip(path, *asked)
            assert (len(decoded) < 240) == (worth == 100)
    for asked in ASKED:
        same(found[100, asked], found[10**9, asked])


def test_where_frames_have_no_time_stamps_all_are_decoded(tmp_path, decoded):
    """AVI stores none, so that frames that are stored in another order than they are shown cannot
    be counted.
    """
    path = film(tmp_path / "a.avi", *X264, "-bf", 2, count=LENGTH, source="testsrc2=s=64x48:r=20")
    assert read_clip(path, 4).first == LENGTH - 4 and len(decoded) == LENGTH


def test_a_damaged_file_is_decoded_whole(tmp_path, decoded):
    path = film(tmp_path / "a.ts", *X264, "-g", 50, count=LENGTH, source="testsrc2=s=64x48:r=20")
    path.write_bytes(path.read_bytes()[:-100])
    assert read_clip(path, 4).damage and len(decoded) > LENGTH - 10


def test_sound_is_passed_over(tmp_path, decoded):
    film(tmp_path / "silent.mp4", *X264, "-g", 50, count=LENGTH)
    sound = ["-f", "lavfi", "-i", "sine=d=31", "-i", tmp_path / "silent.mp4", "-c:v", "copy"]
    ffmpeg(*sound, tmp_path / "a.mkv")
    same(read_clip(tmp_path / "a.mkv", 4), read_clip(tmp_path / "a.mkv", 4, start=LENGTH - 4))
    assert len(decoded) < 250
