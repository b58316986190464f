"""How many threads torch computes with: as many as there are cores that nobody else is using.

Threads that wait for each other spin, for milliseconds. Where other processes want the cores, a
thread that spins takes the time of the very one that it waits for, and decoding becomes up to
twenty times slower than with one thread alone (`python -m benchmarks.busy`). Tokens do not depend
on the number of threads, so it may change while they are made.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

LOOK = 0.5  # seconds between looks at who uses the cores; clocks of the system tick every 0.01
# Whoever has set one of these has chosen.
NUMBER = "OMP_NUM_THREADS"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SPINS = {
    "GOMP_SPINCOUNT": "1000",
    "KMP_BLOCKTIME": "0",
}  # some microseconds: of GNU's OpenMP, and of LLVM's and Intel's


def spin_little(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait sleep soon: for work of which each part takes long, so that waking them
    costs nothing.

    It counts only before torch is imported. A variable of the user's about waiting is left to have
    its way.
    """
    if not any(name in environment for name in WAITING):
        environment.update(SPINS)


class Threads:
    """Sets torch's number of threads as the other processes leave cores free, unless the user has
    chosen a number.
    """

    def __init__(self) -> None:
        self.fixed = NUMBER in os.environ
        # when to look again; threads on a machine where nobody else is at work
        self.due, self.most = 0.0, 0
        self.used: Usage | None = None

    def fix(self, count: int) -> None:
        """Use `count` threads, or for 0 as many as torch takes by itself, whatever the
        others do.
        """
        import torch

        self.fixed = True
        if count:
            torch.set_num_threads(count)

    def look(self) -> None:
        """Follow what the others have used since the last look. To be called often: most calls only
        read a clock.
        """
        now = time.monotonic()
        if self.fixed or now < self.due:
            return
        self.due, before, self.used = now + LOOK, self.used, usage()
        if before is None or "torch" not in sys.modules:
            return
        import torch

        self.most = self.most or max(1, math.ceil(min(torch.get_num_threads(), quota())))
        count = wanted(before, self.used, self.most)
        if count != torch.get_num_threads():
            torch.set_num_threads(count)


THREADS = Threads()  # of this process, as torch's number of threads is


def set_threads(threads: int) -> None:
    """Let torch use this many CPU threads; for 0, as many as there are cores that nobody else is
    using.
    """
    if threads:
        THREADS.fix(threads)


Usage = tuple[float, float, float, int]


def usage() -> Usage:
    """Seconds by the clock, of all cores in work, and of this process in work; and the number of
    cores.

    Cores that this process may not use do not count.
    """
    import psutil

    process = psutil.Process()
    cores = psutil.cpu_times(percpu=True)
    if hasattr(process, "cpu_affinity"):
        cores = [cores[n] for n in process.cpu_affinity() if n < len(cores)]
    work = sum(
        sum(core) - core.idle - getattr(core, "iowait", 0.0) - getattr(core, "guest", 0.0)
        for core in cores
    )
    own = process.cpu_times()
    return time.monotonic(), work, own.user + own.system, len(cores)


def wanted(before: Usage, now: Usage, most: int) -> int:
    """Threads for the cores that others left free between two readings of `usage`: at least 1, at
    most `most`.
    """
    seconds = now[0] - before[0]
    if seconds <= 0 or not now[3]:
        return most
    others = max(0.0, (now[1] - before[1]) - (now[2] - before[2])) / seconds
    return max(1, min(most, int(now[3] - others + 0.5)))


def quota(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores that a container's limit amounts to, infinity where there is none: more threads would
    wait for each other.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return math.inf
    found = [math.inf]
    for _, controllers, path in lines:
        root = groups / "cpu" if "cpu" in controllers.split(",") else groups
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root or root in folder.parents:
                found += _quota_of(folder)
    return min(found)


def _quota_of(group: Path) -> list[float]:
    """What one control group says, of either version; nothing where it says nothing."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            most, period = " ".join((group / name).read_text() for name in names).split()
            # no limit is the word max, or -1
            return [float(most) / float(period)] if float(most) > 0 else []
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return []
