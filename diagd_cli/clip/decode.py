"""Frames decoded from a video's packets, and what the decoder complained of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av

from diagd_cli.clip.image import check_size
from diagd_cli.clip.packets import Contents
from diagd_cli.clip.video import again, complaints, need_memory, opened_video

_SILENT = {"mjpeg"}  # decoders that complain, but do not mark the frames


@dataclass
class Tally:
    """What became of the packets that were decoded: time stamps of frames, and what the decoder
    complained of.
    """

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
    """The frames of a video with their time steps, from the one with the time stamp `begin` on, or
    all of them.

    Without `begin` the first frame has step 0. Frames that are half there are left out; `tally`
    grows on the way.
    """
    place: dict[int | None, int] = dict(zip(contents.shown, contents.steps.tolist(), strict=True))
    first_key = contents.keys[0] if contents.keys else None
    base, step = 0, -1
    with opened_video(path) as (container, stream):
        if begin is not None:
            # some containers are only roughly searched
            earlier = contents.keys[max(0, contents.keys.index(begin) - 1)]
            container.seek(earlier, stream=stream)
        for stamp, frame in _frames(_packets(container, stream, tally, begin), stream, tally):
            if begin is not None and (stamp is None or stamp < begin):
                continue  # of the group of frames before, which was not decoded
            if (
                frame.is_corrupt
                and first_key is not None
                and stamp is not None
                and stamp < first_key
            ):
                continue  # a recording that begins between two key frames
            check_size(path, frame.width, frame.height)
            if not tally.shown and begin is None:
                base = place.get(stamp, 0)
            tally.shown.append(stamp)
            tally.broken += frame.is_corrupt
            tally.fields = tally.fields or frame.interlaced_frame
            step = max(step + 1, place.get(stamp, 0) - base) if contents.shown else step + 1
            yield step, frame


def lost(contents: Contents, tally: Tally, ended: bool) -> int:
    """How many frames have a packet and are not among those decoded; up to the last one, unless all
    were to be.
    """
    if contents.shown:
        got = {stamp for stamp in tally.shown if stamp is not None}
        begin = contents.keys[0] if contents.keys else contents.shown[0]
        last = contents.shown[-1] if ended else max(got, default=begin - 1)
        count = sum(begin <= stamp <= last and stamp not in got for stamp in contents.shown)
    else:
        count = max(0, contents.packets - len(tally.shown)) if ended else 0
    # Where a field has a packet of its own, or nothing is to change, not every packet is a frame.
    quiet = tally.clean and (tally.fields or contents.codec.startswith(("mpeg4", "msmpeg4")))
    return 0 if quiet else count


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, tally: Tally, begin: int | None
) -> Iterator[av.Packet | None]:
    """The stream's packets that can be decoded, from the one with the time stamp `begin` on; None
    at the end.
    """
    packets = container.demux(stream)
    started = begin is None
    while True:
        try:
            packet = next(packets)
        except MemoryError:
            raise
        # one that ends in the middle counts as read through, and was noticed
        except (StopIteration, av.FFmpegError):
            break
        started = started or packet.pts == begin
        if packet.is_corrupt:
            tally.refused += 1
        elif started and (packet.size or again(packet, stream.codec_context.name)):
            yield packet
    yield None


def _frames(
    packets: Iterator[av.Packet | None], stream: av.VideoStream, tally: Tally
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """What the decoder makes of the packets: frames and their time stamps."""
    frame, name = None, stream.codec_context.name
    for packet in packets:
        if packet is not None and not packet.size:
            if frame is not None:
                yield packet.pts, frame
            continue
        try:
            if name in _SILENT:
                with complaints() as log:
                    frames = stream.codec_context.decode(packet)
                tally.refused += bool(log)
            else:
                frames = stream.codec_context.decode(packet)
            for frame in frames:
                yield frame.pts, frame
        except MemoryError:
            raise
        except av.BlockingIOError as error:  # no thread can be started
            raise MemoryError("no memory is left to decode") from error
        except av.EOFError:
            return
        except av.FFmpegError:
            need_memory()
            tally.refused += 1
