"""PyTorch's zip archives: what is in them, read without running any of it, and their tensors,
mapped one by one.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagd_cli.checkpoints.unpickle import FETCH, StoredTensor, Unpickler
from diagd_cli.errors import WeightsError

LARGEST_PICKLE = 1 << 24  # bytes; an honest one only says where tensors lie and is far below


class TorchArchive:
    """A PyTorch zip archive, mapped read-only. Raises WeightsError for anything that is not one, or
    not a whole one.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with zipfile.ZipFile(path) as archive:
                self._entries = {entry.filename: entry for entry in archive.infolist()}
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise WeightsError(
                f"{path} cannot be read: {reason}", "Check the path and its permissions"
            ) from None
        except (
            zipfile.BadZipFile,
            ValueError,
            EOFError,
            struct.error,
            NotImplementedError,
        ) as error:
            raise WeightsError(
                f"{path} is cut off or no PyTorch checkpoint: {str(error).lower()}", FETCH
            ) from None
        roots = [
            name.removesuffix("data.pkl")
            for name in self._entries
            if re.fullmatch("[^/]+/data.pkl", name)
        ]
        if len(roots) != 1:
            raise WeightsError(
                f"{path} is no PyTorch checkpoint: it holds {len(roots)} records data.pkl", FETCH
            )
        self._root = roots[0]
        if (
            f"{self._root}byteorder" in self._entries
            and self.record("byteorder") != sys.byteorder.encode()
        ):
            raise WeightsError(
                f"{path} was written on a machine of another byte order", "Convert it there"
            )

    def unpickle(self, stand_ins: tuple[str, ...] = (), record: str = "data.pkl") -> Any:
        """The object that a record holds: plain data, StoredTensor, Global, and StandIn for what
        the packages `stand_ins` define. Raises WeightsError for a name from elsewhere, and for a
        damaged record.
        """
        start, size = self._extent(record)
        if size > LARGEST_PICKLE:
            raise WeightsError(
                f"{self.path}: {record} takes {size:,} bytes, which no checkpoint needs", FETCH
            )
        return Unpickler(self.path, stand_ins).load(self._map[start : start + size])

    def record(self, name: str) -> bytes:
        """The bytes of a small record."""
        start, size = self._extent(name)
        return self._map[start : start + size]

    def tensor(self, stored: StoredTensor, folder: str = "data") -> Tensor:
        """The tensor, mapped: it takes no memory of its own, and must not be written to."""
        name, dtype = f"{folder}/{stored.storage.key}", stored.dtype
        start, size = self._extent(name)
        if (
            math.prod(stored.shape) > stored.storage.count
            or stored.storage.count * dtype.itemsize > size
        ):
            raise WeightsError(
                f"{self.path}: {name} has {size:,} bytes, fewer than its tensor needs", FETCH
            )
        if not math.prod(stored.shape):
            return torch.empty(stored.shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(
                self._map, dtype=dtype, count=stored.storage.count, offset=start
            )
        return flat.as_strided(stored.shape, stored.stride, stored.offset)

    def release(self, stored: StoredTensor, folder: str = "data") -> None:
        """Give back the memory that reading a tensor took; the file stays mapped, and a later use
        reads it anew.
        """
        start, size = self._extent(f"{folder}/{stored.storage.key}")
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < start + size and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, start + size - first)

    def _extent(self, name: str) -> tuple[int, int]:
        """Where the bytes of a record start in the file, and how many they are."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise WeightsError(f"{self.path} lacks its record {name}", FETCH)
        header = self._map[max(entry.header_offset, 0) : entry.header_offset + 30]
        if len(header) != 30 or header[:4] != b"PK\3\4":
            raise WeightsError(f"{self.path} is damaged at its record {name}", FETCH)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if entry.compress_type != zipfile.ZIP_STORED or start + entry.file_size > len(self._map):
            raise WeightsError(f"{self.path}: its record {name} is compressed or cut off", FETCH)
        return start, entry.file_size
