"""What is done with each kind of file, as docs/clips.md says. Every file is made here."""

import av
import numpy as np
import pytest
from films import X264, decoded, ffmpeg, film, numbers
from PIL import Image

from diagd_cli.clip.read import read_clip, read_frames

ALL = {"context": 1, "start": 0, "future": 99}


def read(path):
    clip = read_clip(path, **ALL)
    assert clip.damage is None
    return clip, np.concatenate([clip.frames, clip.future])


VP8 = ["-c:v", "libvpx", "-deadline", "realtime"]
CONTAINERS = {
    "mp4": X264,
    "mov": ["-c:v", "prores_ks"],
    "mkv": ["-c:v", "ffv1"],
    "webm": VP8,
    "avi": ["-c:v", "mjpeg"],
    "ts": [*X264, "-bf", 2],
    "mpg": ["-c:v", "mpeg2video", "-bf", 2],
    "flv": ["-c:v", "flv"],
    "ogv": ["-c:v", "libtheora", "-q:v", 10],
    "gif": [],
    "wmv": ["-c:v", "wmv2"],
    "3gp": [*X264, "-f", "mp4", "-movflags", "frag_keyframe+empty_moov"],
}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_frame_once_and_the_rate(tmp_path, suffix):
    fps = 25 if suffix == "mpg" else 20
    clip, frames = read(film(tmp_path / f"a.{suffix}", *CONTAINERS[suffix], fps=fps))
    assert (numbers(frames), clip.fps) == (list(range(24)), fps)
    assert np.array_equal(np.stack(list(read_frames(clip.path))), frames)


@pytest.mark.parametrize("fps", ["24000/1001", "30000/1001", "60", "1000"])
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_rates_that_are_rounded_drop_and_double_nothing(tmp_path, suffix, fps):
    clip, frames = read(film(tmp_path / f"a.{suffix}", *CONTAINERS[suffix], fps=fps))
    assert numbers(frames) == list(range(24))
    assert clip.fps == pytest.approx(eval(fps), rel=1e-9)


def test_webm_of_a_recorder_has_no_rate_of_its_own(tmp_path):
    """ffmpeg's log tells of it `20 tbr`, and no fps."""
    film(tmp_path / "whole.webm", *VP8)
    data = (tmp_path / "whole.webm").read_bytes()
    place = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration becomes Void
    (tmp_path / "a.webm").write_bytes(data[:place] + b"\xec\x86" + bytes(6) + data[place + 8 :])
    clip, frames = read(tmp_path / "a.webm")
    assert (numbers(frames), clip.fps) == (list(range(24)), 20)


UNEVEN = {
    "frames left out": ("select='not(eq(n,5)+eq(n,6)+eq(n,16))'", [5, 6, 16]),
    "long stills": ("select='lt(n,6)+gt(n,17)'", range(6, 18)),
}


@pytest.mark.parametrize("kind", UNEVEN)
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_variable_rate_is_sampled_at_constant_steps(tmp_path, kind, suffix):
    chosen, missing = UNEVEN[kind]
    uneven = ["-vf", chosen, "-fps_mode", "passthrough", *CONTAINERS[suffix]]
    clip, frames = read(film(tmp_path / f"a.{suffix}", *uneven, count=24 - len(missing)))
    expected = [max(m for m in range(n + 1) if m not in missing) for n in range(24)]
    assert (numbers(frames), clip.fps) == (expected, 20)
    assert numbers(read_clip(clip.path, 3, start=4).frames) == expected[4:7]
    assert numbers(read_clip(clip.path, 9).frames) == expected[-9:]


def test_a_clock_that_trembles_drops_and_doubles_nothing(tmp_path):
    tremble = [
        "-vf",
        "settb=1/1000,setpts='PTS+14*random(0)'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000",
    ]
    clip, frames = read(film(tmp_path / "a.webm", *tremble, *VP8))
    assert numbers(frames) == list(range(24)) and clip.fps == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize("animated", ["a.webp", "a.png", "a.apng", "a.gif"])
@pytest.mark.parametrize("last", [50, 1000])
def test_animated_images_have_all_their_frames(tmp_path, animated, last):
    frames = [Image.new("RGBA", (32, 24), (10 + 20 * n,) * 3) for n in range(10)]
    for frame in frames:
        frame.putpixel((0, 0), (250, 0, 0, 0))  # transparent: black
    kind = {"format": "PNG"} if animated.endswith("png") else {"lossless": True, "disposal": 2}
    times = [50] * 4 + [150] + [50] * 4 + [last]
    frames[0].save(
        tmp_path / animated, save_all=True, append_images=frames[1:], duration=times, **kind
    )
    clip, shown = read(tmp_path / animated)
    assert [round((int(frame[12, 12, 0]) - 10) / 20) for frame in shown] == [
        0,
        1,
        2,
        3,
        4,
        4,
        4,
        5,
        6,
        7,
        8,
        9,
    ]
    assert clip.fps == 20 and not shown[:, 0, 0].any()


MATRICES = {"bt709": "bt709", "smpte170m": "bt601", "bt2020nc": "bt2020"}
COLOURS = {
    **{
        f"{tag} {span} {form}.mp4": [
            "-vf", f"scale=out_color_matrix={matrix}:out_range={span},format={form}",
            "-c:v", "libx264", "-preset", "ultrafast", "-colorspace", tag, "-color_range", span,
        ]
        for tag, matrix in MATRICES.items() for span in ("tv", "pc") for form in ("yuv420p", "yuv444p")
    },
    "untagged.mp4": X264,
    "jpeg.avi": ["-c:v", "mjpeg"],
    "ten bits.mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"],
    "twelve bits.mkv": ["-c:v", "ffv1", "-pix_fmt", "yuv422p12le"],
    "grey.mkv": ["-c:v", "ffv1", "-pix_fmt", "gray"],
    "rgb.mp4": ["-c:v", "libx264rgb", "-preset", "ultrafast"],
    "palette.gif": [],
    "422.mov": ["-c:v", "prores_ks"],
    "odd.mkv": ["-vf", "crop=37:29:0:0:exact=1", "-c:v", "ffv1", "-pix_fmt", "yuv420p"],
    "opaque.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"],
}  # fmt: skip


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_those_of_ffmpeg(tmp_path, name):
    path = film(tmp_path / name, *COLOURS[name], count=2, source="testsrc2=s=64x48:r=20")
    _, frames = read(path)
    assert np.array_equal(frames.ravel(), decoded(path))


def test_transparent_pixels_are_black(tmp_path):
    half = ["-vf", "format=rgba,geq=r=200:g=100:b=50:a='if(lt(X,32),255,0)'", "-c:v", "qtrle"]
    _, frames = read(film(tmp_path / "a.mov", *half, count=1))
    assert (frames[0, :, :32] == (200, 100, 50)).all() and not frames[0, :, 32:].any()


@pytest.mark.parametrize("aspect, width", [("2/1", 128), ("8/9", 57), ("64/45", 91), ("1/1", 64)])
def test_pixels_become_square(tmp_path, aspect, width):
    film(tmp_path / "a.mp4", "-vf", f"setsar={aspect}", *X264, count=1, source="testsrc2=s=64x48")
    _, frames = read(tmp_path / "a.mp4")
    assert frames.shape == (1, 48, width, 3)
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "turned.mp4")
    _, turned = read(tmp_path / "turned.mp4")
    assert np.array_equal(turned[0], np.rot90(frames[0]))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [[], ["-display_hflip"], ["-display_vflip"]])
def test_pictures_are_upright(tmp_path, turn, flip):
    film(tmp_path / "a.mp4", *X264, count=1, source="testsrc2=s=64x48")
    ffmpeg(
        "-display_rotation", turn, *flip, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4"
    )
    _, frames = read(tmp_path / "b.mp4")
    assert frames.shape[1:3] == ((64, 48) if turn % 180 else (48, 64))
    assert np.array_equal(frames.ravel(), decoded(tmp_path / "b.mp4"))


INTERLACED = {
    "a.mp4": ["-c:v", "libx264", "-flags", "+ildct+ilme"],
    "a.mpg": ["-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", 2],
    "a.mkv": ["-c:v", "ffv1", "-field_order", "tt"],
    "a.mov": ["-c:v", "mjpeg", "-q:v", 2, "-field_order", "tt"],
}


@pytest.mark.parametrize("name", INTERLACED)
def test_fields_are_no_comb(tmp_path, name):
    """A white bar runs to the right; woven, its edge is on other columns in odd rows than in even
    ones.
    """
    bar = "color=black:s=96x64:r=50,geq=lum='if(between(X-8*N,0,23),235,16)':cb=128:cr=128"
    woven = ["-vf", "interlace=scan=tff:lowpass=off,setfield=tff", *INTERLACED[name]]
    path = film(tmp_path / name, *woven, count=4, source=bar)
    if name == "a.mov" and not hasattr(av.VideoCodecContext, "field_order"):
        pytest.skip("PyAV 17 does not tell which field of Motion JPEG is first")
    _, frames = read(path)

    def comb(pictures):
        rows = pictures.astype(int)[:, 8:56, :, 1]
        return np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:]).mean()

    assert comb(decoded(path).reshape(frames.shape)) > 20 > 5 > comb(frames)
    assert len(frames) == 4


TAGS = {"pq": ("smpte2084", "bt2020"), "hlg": ("arib-std-b67", "bt2020")}
BROWN = (107, 68, 35)


def hdr(path, curve, colour="0x6b4423"):
    """A colour of an SDR picture, whose white has 203 cd/m2, as HDR."""
    transfer, primaries = TAGS[curve]
    light = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv,zscale=t=linear:npl=203"
    made = f"zscale=p=2020:t={transfer}:m=2020_ncl:r=tv:npl=203,format=yuv420p10le"
    filters = (
        f"scale=out_color_matrix=bt709:out_range=tv,format=yuv444p,{light},format=gbrpf32le,{made}"
    )
    tags = ["-color_primaries", primaries, "-color_trc", transfer, "-colorspace", "bt2020nc"]
    coded = ["-c:v", "libx264", "-crf", 4, *tags]
    return film(path, "-vf", filters, *coded, count=1, source=f"color={colour}:s=64x48")


@pytest.mark.parametrize("curve", TAGS)
@pytest.mark.parametrize("colour", ["0x6b4423", "0xf0f0f0", "0x20a040", "0x000000"])
def test_hdr_is_what_ffmpeg_makes_of_it_for_a_screen(tmp_path, curve, colour):
    path = hdr(tmp_path / "a.mp4", curve, colour)
    _, frames = read(path)
    screen = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=709,tonemap=hable:desat=0,zscale=t=709:m=709:r=tv"
    expected = decoded(path, "-vf", f"{screen},format=yuv444p").reshape(frames.shape)
    assert np.abs(frames.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("curve", TAGS)
def test_a_brown_floor_stays_brown(tmp_path, curve):
    _, frames = read(hdr(tmp_path / "a.mp4", curve))
    shares = frames[0, 24, 32] / frames[0, 24, 32].sum()
    assert np.abs(shares - np.array(BROWN) / sum(BROWN)).max() < 0.03


@pytest.mark.parametrize("colour", ["0x808080", "0xb06040", "0x4080a0"])
def test_wide_colours_of_sdr_are_those_of_ffmpeg(tmp_path, colour):
    tags = "setparams=color_primaries=bt2020:color_trc=bt709:colorspace=bt2020nc:range=tv"
    filters = f"scale=out_color_matrix=bt2020:out_range=tv,format=yuv444p10le,{tags}"
    path = film(
        tmp_path / "a.mp4",
        "-vf",
        filters,
        "-c:v",
        "libx264",
        count=1,
        source=f"color={colour}:s=64x48",
    )
    _, frames = read(path)
    expected = decoded(path, "-vf", "zscale=p=709:t=709:m=709:r=tv,format=yuv444p").reshape(
        frames.shape
    )
    assert np.abs(frames.astype(int) - expected).max() <= 4


def test_cover_art_is_no_video(tmp_path):
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "cover.png")
    film(tmp_path / "film.mp4", *X264)
    both = [
        "-i",
        tmp_path / "cover.png",
        "-i",
        tmp_path / "film.mp4",
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
    ]
    ffmpeg(*both, "-disposition:v:0", "attached_pic", tmp_path / "a.mp4")
    assert numbers(read(tmp_path / "a.mp4")[1]) == list(range(24))


def test_of_two_videos_the_first_is_read(tmp_path):
    film(tmp_path / "one.mp4", *X264)
    film(tmp_path / "two.mp4", *X264, size="32x32")
    both = [
        "-i",
        tmp_path / "one.mp4",
        "-i",
        tmp_path / "two.mp4",
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
    ]
    ffmpeg(*both, tmp_path / "a.mkv")
    assert read(tmp_path / "a.mkv")[1].shape == (24, 48, 64, 3)


def test_what_an_edit_list_cuts_away_is_not_there(tmp_path):
    film(tmp_path / "whole.mp4", *X264, "-g", 8)
    ffmpeg("-ss", 0.5, "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "a.mp4")
    assert numbers(read(tmp_path / "a.mp4")[1]) == list(range(10, 24))


def test_a_recording_that_begins_between_key_frames(tmp_path):
    """Frames before the first key frame cannot be shown, and nothing is wrong with the file."""
    film(tmp_path / "whole.ts", *X264, "-g", 8, "-bf", 0)
    data = (tmp_path / "whole.ts").read_bytes()
    packets = [data[n : n + 188] for n in range(0, len(data), 188)]
    second = [n for n, packet in enumerate(packets) if packet[1] & 0x40 and packet[2] == 0][1]
    (tmp_path / "a.ts").write_bytes(b"".join(packets[second + 5 :]))
    assert numbers(read(tmp_path / "a.ts")[1]) == list(range(8, 24))


def test_frames_may_change_their_size(tmp_path):
    """All get the first one's."""
    one = film(tmp_path / "1.h264", *X264, count=3).read_bytes()
    two = film(tmp_path / "2.h264", *X264, count=3, size="32x24").read_bytes()
    (tmp_path / "both.h264").write_bytes(one + two)
    ffmpeg("-r", 20, "-i", tmp_path / "both.h264", "-c", "copy", tmp_path / "a.mkv")
    frames = read_clip(tmp_path / "a.mkv", 6).frames
    assert frames.shape == (6, 48, 64, 3) and numbers(frames) == [0, 1, 2, 0, 1, 2]
