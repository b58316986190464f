"""Video files: what is in one, and the frames that are decoded from it.

The file is untrusted: libavformat may open nothing but that one local file, as a real video container only, and frames
above `MAX_SIDE` are refused before any memory is spent on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from diagd_cli.clip.image import MAX_SIDE, check_size, too_large
from diagd_cli.clip.times import pace, usable
from diagd_cli.clip.whole import begins_as_mov, missing_end
from diagd_cli.errors import ClipError

# Containers that hold their own frames. Playlists (concat, HLS, DASH), image sequences and devices would make
# libavformat open other files than the one that was named.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,asf"
_SAFE = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS, "max_pixels": str(MAX_SIDE**2)}
AGAIN = "Copy or download it again"
# Decoders that take any bytes for a picture: a block of zeros in what they decode is a hole in the file.
_UNCHECKED = {"vp8", "vp9", "wmv1", "wmv2", "wmv3"}
_HOLE = bytes(128)
_UNMARKED = {"mjpeg", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "qtrle", "png", "v210", "cfhd"}  # with fields
_SILENT = {"mjpeg"}  # decoders that complain, but do not mark the frames


@dataclass
class Contents:
    """What the packets of the video stream tell, without decoding one.

    `shown` are the time stamps of its frames in the order in which they are shown, empty where they cannot be relied
    on; `steps` (int64, as many) is when, in time steps of a video of `fps` frames per second. `keys` are the time stamps
    of frames that decoding may begin with. `damage` says what is missing or broken.
    """

    codec: str
    fps: float | None
    packets: int  # of frames that are shown
    claimed: int  # frames, by what the container says of its length; 0 where it says nothing
    aspect: Fraction | None  # width of a pixel through its height
    fields: str | None  # "tff" or "bff", which field is first, where the container tells and the decoder does not
    shown: list[int] = field(default_factory=list)
    steps: np.ndarray | None = None
    keys: list[int] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


@contextmanager
def opened_video(path: Path, said: list | None = None) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first stream of pictures, cover art apart; `said` gains what libav complains of.

    Raises ClipError.
    """
    with _errors() as log:
        try:
            container = av.open("file:" + os.path.abspath(path), options=dict(_SAFE), metadata_errors="replace")
        except MemoryError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _unreadable(path, log) from error
        if said is not None:
            said += log
    with container:
        covers = av.stream.Disposition.attached_pic
        stream = next((one for one in container.streams.video if not one.disposition & covers), None)
        if stream is None:
            raise ClipError(f"{path} has no video stream", "Name a file with pictures, not only sound")
        if stream.codec_context is None:
            raise ClipError(f"{path} is of a video codec that is not known", "Convert it to H.264 in MP4")
        check_size(path, stream.codec_context.width, stream.codec_context.height)
        if not stream.codec_context.width and (error := _oversized(path, log)):
            raise error
        stream.codec_context.options = {"max_pixels": _SAFE["max_pixels"]}
        yield container, stream


@contextmanager
def _errors() -> Iterator[list[tuple[int, str, str]]]:
    """What libav calls an error meanwhile: level, who says it, text."""
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def _unreadable(path: Path, log: list) -> ClipError:
    if error := _oversized(path, log):
        return error
    if any("moov atom not found" in text for _, _, text in log) and begins_as_mov(path):
        return ClipError(f"{path} is cut short: its index (the moov atom) is missing", AGAIN)
    return ClipError(f"{path} is not a video file", "Name an MP4, MOV, MKV, WebM, AVI or GIF file, or an image")


def _oversized(path: Path, log: list) -> ClipError | None:
    sizes = (re.search(r"Picture size ([1-9]\d*)x([1-9]\d*)", text) for _, _, text in log)
    found = next(filter(None, sizes), None)
    return too_large(path, int(found[1]), int(found[2])) if found else None


def look_through(path: Path) -> Contents:
    """Read a video's packets. Raises ClipError for a file that is no video."""
    said: list = []
    with opened_video(path, said) as (container, stream):
        packets = _Packets(stream)
        with _errors() as log:
            log += said
            packets.read(container, log)
        contents = packets.contents(container)
        if end := missing_end(path, container.format.name):
            contents.damage.append(end)
        return contents


@dataclass
class Tally:
    """What became of the packets that were decoded: time stamps of frames, and what the decoder complained of."""

    shown: list[int | None] = field(default_factory=list)
    broken: int = 0  # frames that the decoder patched up
    refused: int = 0  # packets that are no picture
    fields: bool = False  # frames of two fields, which may have a packet each

    @property
    def clean(self) -> bool:
        return not self.broken and not self.refused


def decode(
    path: Path, contents: Contents, tally: Tally, begin: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of a video with their time steps, from the one with the time stamp `begin` on, or all of them.

    Without `begin` the first frame has step 0. Frames that are half there are left out; `tally` grows on the way.
    """
    place = dict(zip(contents.shown, contents.steps.tolist(), strict=True)) if contents.shown else {}
    first_key = contents.keys[0] if contents.keys else None
    base, step = 0, -1
    with opened_video(path) as (container, stream):
        if begin is not None:
            earlier = contents.keys[max(0, contents.keys.index(begin) - 1)]  # some containers are only roughly searched
            container.seek(earlier, stream=stream)
        for stamp, frame in _frames(_packets(container, stream, tally, begin), stream, tally):
            if begin is not None and (stamp is None or stamp < begin):
                continue  # of the group of frames before, which was not decoded
            if frame.is_corrupt and first_key is not None and stamp is not None and stamp < first_key:
                continue  # a recording that begins between two key frames
            check_size(path, frame.width, frame.height)
            if not tally.shown and begin is None:
                base = place.get(stamp, 0)
            tally.shown.append(stamp)
            tally.broken += frame.is_corrupt
            tally.fields = tally.fields or frame.interlaced_frame
            step = place[stamp] - base if stamp in place else step + 1
            yield step, frame


def lost(contents: Contents, tally: Tally, ended: bool) -> int:
    """How many frames have a packet and are not among those decoded; up to the last one, unless all were to be."""
    if contents.shown:
        got = {stamp for stamp in tally.shown if stamp is not None}
        last = contents.shown[-1] if ended else max(got, default=0)
        begin = contents.keys[0] if contents.keys else contents.shown[0]
        count = sum(begin <= stamp <= last and stamp not in got for stamp in contents.shown)
    else:
        count = max(0, contents.packets - len(tally.shown)) if ended else 0
    quiet = tally.clean and (
        tally.fields or contents.codec.startswith(("mpeg4", "msmpeg4"))
    )  # not every packet is a frame there
    return 0 if quiet else count


def _packets(container, stream, tally: Tally, begin: int | None) -> Iterator[av.Packet | None]:
    """The stream's packets that can be decoded, from the one with the time stamp `begin` on; None at the end."""
    packets = container.demux(stream)
    started = begin is None
    while True:
        try:
            packet = next(packets)
        except MemoryError:
            raise
        except (StopIteration, av.FFmpegError):  # one that ends in the middle counts as read through, and was noticed
            break
        started = started or packet.pts == begin
        if packet.is_corrupt:
            tally.refused += 1
        elif started and (packet.size or _again(packet, stream.codec_context.name)):
            yield packet
    yield None


def _frames(packets: Iterator, stream, tally: Tally) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """What the decoder makes of the packets: frames and their time stamps."""
    frame, name = None, stream.codec_context.name
    for packet in packets:
        if packet is not None and not packet.size:
            if frame is not None:
                yield packet.pts, frame
            continue
        try:
            if name in _SILENT:
                with _errors() as log:
                    frames = stream.codec_context.decode(packet)
                tally.refused += bool(log)
            else:
                frames = stream.codec_context.decode(packet)
            for frame in frames:
                yield frame.pts, frame
        except MemoryError:
            raise
        except av.EOFError:
            return
        except av.FFmpegError:
            tally.refused += 1


def _again(packet: av.Packet, codec: str) -> bool:
    """Whether a packet without bytes means that the frame before it is shown once more; at the end they mean nothing."""
    return codec == "theora" and packet.dts is not None and not packet.size


class _Packets:
    """The packets of a video stream, in the order of the file."""

    def __init__(self, stream: av.VideoStream):
        self.stream, self.codec = stream, stream.codec_context.name
        self.stamps: list[int | None] = []  # of what is shown
        self.keys: list[int | None] = []
        self.orderly, self.latest = True, None  # whether every time stamp of decoding is later than the one before
        self.damage: dict[str, None] = {}  # in the order in which it was found

    def read(self, container: av.container.InputContainer, log: list) -> None:
        try:
            for packet in container.demux(self.stream):
                if log:
                    self._complain(container.format.name, log)
                if packet.size or _again(packet, self.codec):
                    self._add(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError):
            self.damage["it cannot be read to its end"] = None

    def _complain(self, container: str, log: list) -> None:
        if any(name == container for _, name, _ in log):  # of the container, not of the pictures
            self.damage["parts of it cannot be read"] = None
        log.clear()  # a bad file says much

    def _add(self, packet: av.Packet) -> None:
        if packet.is_corrupt:
            self.damage["a frame is only half there"] = None
        if packet.is_discard:  # an edit list cuts it away
            return
        data = bytes(packet) if self.codec in _UNCHECKED else b""
        if _HOLE in data:
            self.damage["there are holes in it"] = None
        if self.codec == "vp8" and not data[0] & 0x10:  # a picture that others are made of, never shown
            return
        if packet.dts is not None:
            self.orderly = self.orderly and (self.latest is None or packet.dts > self.latest)
            self.latest = packet.dts
        self.stamps.append(packet.pts)
        if packet.is_keyframe:
            self.keys.append(packet.pts)

    def contents(self, container: av.container.InputContainer) -> Contents:
        stream = self.stream
        declared = [float(r) for r in (stream.guessed_rate, stream.average_rate, stream.base_rate) if r]
        shown = sorted(self.stamps) if self.orderly and None not in self.stamps else []
        fps, steps = usable(declared), None
        if len(set(shown)) < len(shown):
            shown = []
        if shown:
            times = np.array(shown) * float(stream.time_base)
            fps, steps = pace(times, declared, float(stream.time_base))
        keys = sorted(key for key in self.keys if key is not None)
        seconds = (container.duration or 0) / av.time_base
        claimed = stream.frames or round(seconds * (fps or 0))
        order = getattr(stream.codec_context, "field_order", 0) if self.codec in _UNMARKED else 0  # since PyAV 18
        fields = ("tff" if order in (2, 4) else "bff") if order > 1 else None
        found = self.codec, fps, len(self.stamps), claimed, stream.sample_aspect_ratio, fields
        return Contents(*found, shown, steps, keys, list(self.damage))
