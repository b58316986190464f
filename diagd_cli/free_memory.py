"""How much memory a device has free, and giving freed memory back. Torch-free for a CPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device | str) -> int | None:
    """Bytes that can be had on a device now; None where that cannot be told."""
    if str(device).startswith("cuda"):
        import torch

        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_main_memory()


def free_main_memory(
    proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes of main memory that can be had now, within the limits of this process and of its
    control groups.
    """
    try:
        found = re.search(
            r"^MemAvailable:\s*(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    if found:
        return min([int(found[1]) * 1024, *_group_room(proc, groups), *_address_room(proc)])
    import psutil

    try:
        return psutil.virtual_memory().available
    except OSError:
        return None


def give_back() -> None:
    """Return to the system what this process has freed. The C library of most Linuxes keeps it
    where something small lies behind, for requests of that size, and what a stage needs next is
    larger; of others nothing is known, and nothing is done.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: of Windows
        return
    trim(0)


def _address_room(proc: Path) -> Iterator[int]:
    """Bytes left below this process's own limit (ulimit -v), where it has one."""
    try:
        limit = re.search(
            r"^Max address space +(\d+)", (proc / "self" / "limits").read_text(), re.MULTILINE
        )
        used = re.search(
            r"^VmSize:\s*(\d+) kB", (proc / "self" / "status").read_text(), re.MULTILINE
        )
    except OSError:
        return
    if limit and used:
        yield max(0, int(limit[1]) - 1024 * int(used[1]))


def _group_room(proc: Path, groups: Path) -> Iterator[int]:
    """Bytes left in the control group of this process and in those above it, for both versions of
    control groups.
    """
    second = ("memory.max", "memory.current", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", first) if controllers else (groups, second)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root or root in folder.parents:
                yield from _room(folder, *names)


def _room(folder: Path, most: str, used: str, reclaimable: str) -> Iterator[int]:
    """Bytes below a group's limit, where it has one. Pages of files that were only read can be
    given up.
    """
    try:
        # no limit is the word max
        limit, usage = (int((folder / name).read_text()) for name in (most, used))
        found = re.search(
            rf"^{reclaimable} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE
        )
    except (OSError, ValueError):
        return
    yield max(0, limit - usage + (int(found[1]) if found else 0))
