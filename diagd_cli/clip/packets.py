"""What a video file holds, by its packets: how many frames, when they are shown, what is missing.
Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from diagd_cli.clip.times import pace, usable
from diagd_cli.clip.video import again, complaints, opened_video
from diagd_cli.clip.whole import missing_end

# Decoders that take any bytes for a picture: a block of zeros in what they decode is a hole in the
# file.
_UNCHECKED = {"vp8", "vp9", "wmv1", "wmv2", "wmv3"}
_HOLE = bytes(128)
# frames, at most, by which the order in the file differs from that in which they are shown
_REORDERED = 16
# Codecs of pictures without a mark of their own for fields.
_UNMARKED = {"mjpeg", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "qtrle", "png", "v210", "cfhd"}


@dataclass
class Contents:
    """What the packets of the video stream tell, without decoding one.

    `shown` are the time stamps of its frames in the order in which they are shown, empty where they
    cannot be relied on; `steps` (int64, as many) is when, in time steps of a video of `fps` frames
    per second. `keys` are the time stamps of frames that decoding may begin with. `damage` says
    what is missing or broken.
    """

    codec: str
    fps: float | None
    packets: int  # of frames that are shown
    claimed: int  # frames, by what the container says of its length; 0 where it says nothing
    aspect: Fraction | None  # width of a pixel through its height
    # "tff" or "bff", which field is first, where the container tells and the decoder does not
    fields: str | None
    shown: list[int] = field(default_factory=list)
    steps: np.ndarray = field(default_factory=lambda: np.arange(0))
    keys: list[int] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


def look_through(path: Path, tell: Callable[[str], None] = lambda line: None) -> Contents:
    """Read a video's packets; `tell` is told how far that is. Raises ClipError for a file that is
    no video.
    """
    said: list = []
    with opened_video(path, said) as (container, stream):
        packets = _Packets(stream)
        with complaints() as log:
            log += said
            packets.read(
                container, log, lambda count: tell(f"reading {path.name}: {count} packets so far")
            )
        if end := missing_end(path, container.format.name, stream.id):
            packets.damage = {end: None}  # which explains the rest
        return packets.contents(container)


class _Packets:
    """The packets of a video stream, in the order of the file."""

    def __init__(self, stream: av.VideoStream):
        self.stream, self.codec = stream, stream.codec_context.name
        self.stamps: list[int | None] = []  # of what is shown
        self.keys: list[int | None] = []
        self.orderly = True  # whether every time stamp of decoding is later than the one before
        self.latest: int | None = None
        self.damage: dict[str, None] = {}  # in the order in which it was found

    def read(
        self, container: av.container.InputContainer, log: list, tell: Callable[[int], None]
    ) -> None:
        try:
            for packet in container.demux(self.stream):
                if len(self.stamps) % 10_000 == 9_999:
                    tell(len(self.stamps))
                if log:
                    self._complain(container.format.name, log)
                if packet.size or again(packet, self.codec):
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
        # a picture that others are made of, never shown
        if self.codec == "vp8" and not data[0] & 0x10:
            return
        if packet.dts is not None:
            self.orderly = self.orderly and (self.latest is None or packet.dts > self.latest)
            self.latest = packet.dts
        self.stamps.append(packet.pts)
        if packet.is_keyframe:
            self.keys.append(packet.pts)

    def contents(self, container: av.container.InputContainer) -> Contents:
        stream = self.stream
        declared = [
            float(r) for r in (stream.guessed_rate, stream.average_rate, stream.base_rate) if r
        ]
        # AVI has no time stamps: those of frames that are stored in another order than they are
        # shown are made up.
        guessed = container.format.name == "avi" and len(self.keys) < len(self.stamps)
        stamps = [stamp for stamp in self.stamps if stamp is not None]
        reliable = self.orderly and len(stamps) == len(self.stamps) and not guessed
        shown = sorted(stamps) if reliable else []
        fps, steps = usable(declared), np.arange(0)
        if len(set(shown)) < len(shown):
            shown = []
        if shown:
            assert stream.time_base is not None  # which its time stamps count
            tick = float(stream.time_base)
            fps, steps = pace(np.array(shown) * tick, declared, tick)
            # of constant rate, with time stamps only here and there
            if container.format.name == "mpeg":
                steps = np.arange(len(shown))
            # of frames that refer to later ones, the last that are left have gaps, to be left out
            if self.damage:
                gaps = np.diff(steps, prepend=-1)
                gaps[-_REORDERED:] = np.minimum(gaps[-_REORDERED:], 1)
                steps = np.cumsum(gaps) - 1
        keys = sorted(key for key in self.keys if key is not None)
        seconds = (container.duration or 0) / av.time_base
        claimed = stream.frames or round(seconds * (fps or 0))
        # since PyAV 18
        order = getattr(stream.codec_context, "field_order", 0) if self.codec in _UNMARKED else 0
        fields = ("tff" if order in (2, 4) else "bff") if order > 1 else None
        found = self.codec, fps, len(self.stamps), claimed, stream.sample_aspect_ratio, fields
        return Contents(*found, shown, steps, keys, list(self.damage))
