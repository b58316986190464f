"""Memory that is free: of the machine, and of what limits a process."""

import platform
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from diagd_cli.free_memory import free_main_memory, free_memory, give_back


def test_free_memory_of_this_machine():
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


def test_free_memory_of_a_system_without_proc(tmp_path, monkeypatch):
    """macOS and Windows: what psutil tells, and nothing where it cannot."""
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=9000, available=5000)
    )
    assert free_main_memory(tmp_path, tmp_path) == 5000

    def unknown():
        raise OSError("not here")

    monkeypatch.setattr(psutil, "virtual_memory", unknown)
    assert free_main_memory(tmp_path, tmp_path) is None


def put(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content}\n")


def test_control_groups_limit_what_is_free(tmp_path):
    """The tightest of the groups of the process and of those above; what files hold in it can be
    had.
    """
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    put(
        proc,
        {"meminfo": "MemTotal: 99 kB\nMemAvailable:    1000 kB\n", "self/cgroup": "0::/jobs/mine"},
    )
    assert free_main_memory(proc, groups) == 1000 * 1024
    put(
        groups / "jobs" / "mine",
        {"memory.max": "max", "memory.current": 5, "memory.stat": "inactive_file 0"},
    )
    assert free_main_memory(proc, groups) == 1000 * 1024
    put(
        groups / "jobs",
        {"memory.max": 9000, "memory.current": 7000, "memory.stat": "anon 1\ninactive_file 500"},
    )
    assert free_main_memory(proc, groups) == 2500
    put(groups, {"memory.max": 100, "memory.current": 200, "memory.stat": "anon 1"})
    assert free_main_memory(proc, groups) == 0


def test_control_groups_of_the_first_version(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    put(
        proc,
        {"meminfo": "MemAvailable: 1000 kB", "self/cgroup": "3:cpu:/\n2:blkio,memory:/box\n0::/"},
    )
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    put(
        groups / "memory",
        dict(zip(names, (2**63 - 4096, 10, "total_inactive_file 0"), strict=True)),
    )
    assert free_main_memory(proc, groups) == 1000 * 1024
    put(
        groups / "memory" / "box",
        dict(zip(names, (5000, 3000, "inactive_file 7\ntotal_inactive_file 50"), strict=True)),
    )
    assert free_main_memory(proc, groups) == 2050


@pytest.mark.parametrize(
    ("limit", "free"), [("unlimited", 1000 * 1024), (900 * 1024, 600 * 1024), (200 * 1024, 0)]
)
def test_the_shells_limit_counts_address_space(tmp_path, limit, free):
    """`ulimit -v`: of which the libraries have taken some already."""
    limits = (
        "Limit                     Soft Limit           Hard Limit\nMax address space         "
        f"{limit:<20} unlimited"
    )
    put(
        tmp_path,
        {
            "meminfo": "MemAvailable: 1000 kB",
            "self/limits": limits,
            "self/status": "VmSize:\t    300 kB",
        },
    )
    assert free_main_memory(tmp_path, tmp_path / "groups") == free


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the C library of most Linuxes")
def test_what_was_freed_goes_back_to_the_system():
    """Though something small lies behind it."""
    process = psutil.Process()
    blocks = [b"." * 100_000 for _ in range(400)]
    held, behind = process.memory_info().rss, blocks.pop()
    blocks.clear()
    give_back()
    assert process.memory_info().rss < held - 20e6 and len(behind) == 100_000


def test_a_system_that_takes_nothing_back(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    give_back()
