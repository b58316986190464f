"""What .npz files of strangers may be, and what reading one can raise."""

from __future__ import annotations

import zipfile
import zlib

LARGEST = 1 << 32  # bytes that are unpacked: a small file may unpack to any size
# What NumPy raises for files that hold something else.
DAMAGED = (
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)
