"""Files of tokens, as `--save-tokens` writes them: an .npz with `codes`, whole numbers [T, h, w],
and what else it holds.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from diagd_cli.errors import ClipError
from diagd_cli.files.npz import DAMAGED, LARGEST

SUFFIX = ".npz"
FIELD = "codes"
_AGAIN = "Write it with numpy.savez(path, codes=codes)"


def holds_codes(path: Path) -> bool:
    """Whether a file is one of tokens: an .npz with a field `codes`."""
    if path.suffix.lower() != SUFFIX:
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return f"{FIELD}.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_codes(path: Path) -> np.ndarray:
    """Codes int64 [T, h, w] of a file of tokens. Raises ClipError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            size = file.zip.getinfo(f"{FIELD}.npy").file_size
            if size > LARGEST:
                raise ClipError(
                    f"{path} unpacks to {size:,} bytes", f"At most {LARGEST:,} can be read"
                )
            codes = file[FIELD]
    except OSError as error:
        raise ClipError(f"{path} cannot be read: {error.strerror or error}", _AGAIN) from None
    except DAMAGED as error:
        raise ClipError(f"{path} is no .npz of plain arrays, or damaged: {error}", _AGAIN) from None
    if codes.ndim != 3 or codes.dtype.kind not in "iu" or not codes.size:
        seen = f"{codes.dtype} {list(codes.shape)}"
        raise ClipError(f"{path}: codes are {seen}", "They must be whole numbers [T, h, w]")
    return codes.astype(np.int64)
