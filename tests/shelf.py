"""A file system of a stranger's: shelf://BUCKET/NAME is a file below the folder $SHELF, which any
process that has this module on its path can reach as fsspec's own.

A journal beside the folder has a line for each file that was put, moved or removed. $SHELF_HALTS
names a suffix: of such a file half is put, and no more comes; $SHELF_FULL one of which
half is put, and there is no room for more.
"""

import errno
import os
import time
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

SCHEME = "shelf://"


class Shelf(LocalFileSystem):
    """Files are put by halves, and renamed, as by SFTP."""

    protocol = "shelf"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        if path.startswith(SCHEME):
            path = f"{os.environ['SHELF']}/{path[len(SCHEME) :]}"
        return super()._strip_protocol(path)

    def put_file(self, lpath, rpath, **_):
        note("put", rpath)
        data, suffix = Path(lpath).read_bytes(), Path(lpath).suffix
        with open(rpath, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            if suffix == os.environ.get("SHELF_HALTS"):
                note("halted", rpath)
                time.sleep(600)
            if suffix == os.environ.get("SHELF_FULL"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(data[len(data) // 2 :])

    def mv(self, path1, path2, **options):
        note("move", path2)
        super().mv(path1, path2, **options)

    def rm_file(self, path):
        note("remove", path)
        super().rm_file(path)


def note(what, path):
    with open(f"{os.environ['SHELF']}.journal", "a", encoding="utf-8") as file:
        file.write(f"{what} {Path(path).name}\n")


def journal():
    """What was done, hidden names as part.SUFFIX."""
    path = Path(f"{os.environ['SHELF']}.journal")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    words = [line.split(" ", 1) for line in lines]
    return [
        (what, f"part{Path(name).suffix}" if name.startswith(".diagd") else name)
        for what, name in words
    ]


def register(folder: Path) -> None:
    """Have processes that have `folder` on their path know it: as an installed package does."""
    about = folder / "shelf-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nshelf = shelf.Shelf\n")
