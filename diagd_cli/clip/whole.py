"""Whether a video file has the end that its beginning promises, and all between. Only sizes and
counters are read.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

_BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"free",
    b"skip",
    b"wide",
    b"mfra",
    b"sidx",
    b"styp",
    b"uuid",
    b"meta",
    b"emsg",
}
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the File Properties Object
_TS_PACKETS = (188, 192, 204)  # bytes: plain, with a time stamp (M2TS), with error correction


def missing_end(path: Path, container: str, stream: int) -> str | None:
    """What is missing of a file of libavformat's format `container`; None where nothing is known to
    be.

    `stream` is the number of the stream of pictures in it.
    """
    name = container.split(",")[0]
    if name not in (*_CHECKS, "mpegts"):
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _mpegts(data, stream) if name == "mpegts" else _CHECKS[name](data)
        except (struct.error, IndexError):
            return "it ends within a part"


def begins_as_mov(path: Path) -> bool:
    """Whether the first bytes are those of an MP4 or MOV file."""
    with path.open("rb") as file:
        return file.read(8)[4:] in _BOXES


def _short(data: mmap.mmap, end: int, slack: int = 0) -> str | None:
    return f"{len(data)} of its {end} bytes are there" if end > len(data) + slack else None


def _mov(data: mmap.mmap) -> str | None:
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        if kind not in _BOXES or size == 0:  # junk at the end, or a box that goes on to it
            return None
        if size == 1:
            size = struct.unpack_from(">Q", data, place + 8)[0]
        if size < 8:
            return None
        place += size
    return _short(data, place)


def _matroska(data: mmap.mmap) -> str | None:
    place = 4 + _vint(data, 4)[1] + _vint(data, 4)[0]  # behind the EBML header
    while data[place : place + 4] != b"\x18\x53\x80\x67":  # the segment; Void may come before it
        if data[place] != 0xEC:
            return None
        size, length = _vint(data, place + 1)
        place += 1 + length + size
    size, length = _vint(data, place + 4)
    unknown = size == (1 << 7 * length) - 1  # a live recording, which nobody closed
    return None if unknown else _short(data, place + 4 + length + size)


def _vint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of EBML's, and its length in bytes."""
    length = 9 - data[place].bit_length()
    return int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1), length


def _avi(data: mmap.mmap) -> str | None:
    place = 0
    while data[place : place + 4] == b"RIFF":
        size = struct.unpack_from("<I", data, place + 4)[0]
        if not size:  # a recorder that could not go back
            return None
        place += 8 + size + size % 2
    return _short(data, place, slack=8)


def _ogg(data: mmap.mmap) -> str | None:
    place = data.rfind(b"OggS")
    segments = data[place + 26]
    table = data[place + 27 : place + 27 + segments]
    cut = len(table) < segments or _short(data, place + 27 + segments + sum(table))
    return (
        cut
        if isinstance(cut, str)
        else ("its last page is missing" if cut or not data[place + 5] & 4 else None)
    )


def _gif(data: mmap.mmap) -> str | None:
    def table(flags: int) -> int:  # bytes of a table of colours
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    def blocks(place: int) -> int:
        while size := data[place]:
            place += 1 + size
        return place + 1

    place = 13 + table(data[10])
    while data[place] != 0x3B:
        if data[place] == 0x21:
            place = blocks(place + 2)
        elif data[place] == 0x2C:
            place = blocks(place + 11 + table(data[place + 9]))
        else:
            return "a part of it is damaged"
    return None


def _asf(data: mmap.mmap) -> str | None:
    place = data.find(_ASF_FILE, 0, 1 << 16)
    if place < 0 or data[place + 88] & 1:  # a broadcast, whose size is not known
        return None
    return _short(data, struct.unpack_from("<Q", data, place + 40)[0])


def _mpegts(data: mmap.mmap, pid: int) -> str | None:
    """By its packets' counters, which count to 16."""
    size = next((size for size in _TS_PACKETS if len(data) % size == 0), None)
    if size is None:
        return "it ends within a packet"
    heads = np.frombuffer(data, np.uint8).reshape(-1, size)[:, 4 * (size == 192) :][:, :6]
    own = heads[((heads[:, 1] & 31).astype(int) << 8 | heads[:, 2]) == pid]
    # which the file itself announces
    jumps = (own[:, 3] & 32 > 0) & (own[:, 4] > 0) & (own[:, 5] & 128 > 0)
    filled = own[:, 3] & 16 > 0
    counts, jumps = own[filled, 3] & 15, jumps[filled][1:]
    gaps = (np.diff(counts) & 15 > 1) & ~jumps  # a packet may come twice
    if (heads[:, 0] != 0x47).any() or gaps.any():
        return "packets of it are missing"
    return None


_CHECKS = {"mov": _mov, "matroska": _matroska, "avi": _avi, "ogg": _ogg, "gif": _gif, "asf": _asf}
