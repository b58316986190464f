"""Names of temporary files and folders, and removing those that a killed process has left.

A name is .diagd-PROCESS-PLACE-RANDOM.SUFFIX. A place is one running system (a container is one of
its own) in which process numbers tell processes apart: only what a process of this place left,
which is there no more, is removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

# bytes; a longer one is no suffix that a program looks at, and would make the name too long
LONGEST_SUFFIX = 16
_OWN = re.compile(r"\.diagd-(\d+-[0-9a-f]{8})-[0-9a-f]{8}(\..*)?")


def hidden_name(target: Path) -> Path:
    """A new name for a temporary file or folder beside `target`."""
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= LONGEST_SUFFIX else ""
    return target.with_name(f".diagd-{process_name()}-{secrets.token_hex(4)}{suffix}")


def process_name() -> str:
    """PROCESS-PLACE of this process."""
    return f"{os.getpid()}-{_place()}"


def has_ended(name: str) -> bool:
    """Whether a process is known to have ended, by its PROCESS-PLACE: one of this place that is
    there no more.
    """
    number, _, place = name.partition("-")
    if not _system() or place != _place():
        return False
    try:
        os.kill(int(number), 0)
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, OverflowError, ValueError):  # it is another user's
        return False


def is_running(name: str) -> bool:
    """Whether a process is known to be running, by its PROCESS-PLACE."""
    return bool(_system()) and name.partition("-")[2] == _place() and not has_ended(name)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove from folders our own temporary files and folders of processes that have ended."""
    for folder in dict.fromkeys(folders):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                match = _OWN.fullmatch(entry.name)
                if match and has_ended(match[1]):
                    with suppress(OSError):
                        _remove(Path(entry.path), entry.stat(follow_symlinks=False))


def _remove(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        return
    if stat.S_ISREG(status.st_mode):
        path.unlink()
    elif stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path, ignore_errors=True)


@lru_cache(maxsize=1)
def _system() -> str:
    """What no two places have in common: this start of the system, and its space of process
    numbers; "" if unknown.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _place() -> str:
    return hashlib.sha256(f"{socket.gethostname()} {_system()}".encode()).hexdigest()[:8]
