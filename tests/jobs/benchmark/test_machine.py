"""The machine: memory that is really read, products that are really made, and what the CPU is
called.
"""

import math

import pytest
import torch

from diagd_cli.jobs.benchmark import machine
from diagd_cli.jobs.benchmark.machine import bandwidth, best_seconds, measure_machine, processor

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Trials so short that their figures say little."""
    monkeypatch.setattr(machine, "SECONDS", 0.01)
    monkeypatch.setitem(machine.READ, "cpu", 1 << 22)
    monkeypatch.setitem(machine.SIDE, "cpu", 128)


def test_every_dtype_and_row_count_has_its_rate(quick):
    seen = measure_machine(CPU, {"float32": [4, 1, 4], "bfloat16": [2]})
    assert (seen.device, seen.threads, seen.name) == ("cpu", torch.get_num_threads(), processor())
    assert list(seen.flops) == ["float32", "bfloat16"]
    assert {name: list(rates) for name, rates in seen.flops_by_rows.items()} == {
        "float32": [1, 4],
        "bfloat16": [2],
    }
    rates = [seen.bandwidth, *seen.flops.values(), *seen.flops_by_rows["float32"].values()]
    assert all(0 < rate < math.inf for rate in rates)


def test_memory_is_read_from_pages_of_its_own(monkeypatch):
    """Pages that nothing was written to are one page of zeros, which the cache holds: no memory
    would be read.
    """

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    try:
        before = resident()
    except OSError:
        pytest.skip("the system does not tell how much memory is resident")
    seen = []

    def spy(work, seconds=None):
        seen.append(resident() - before)
        return best_seconds(work, 0.001)

    monkeypatch.setattr(machine, "best_seconds", spy)
    size = 1 << 28
    assert machine.READ["cpu"] >= 256e6 and machine.READ["cuda"] >= 256e6
    assert 0 < bandwidth(CPU, size) < math.inf
    assert len(seen) == 2 and all(more > 0.9 * size for more in seen)


def test_trials_go_on_for_the_time_given():
    calls = []
    best = best_seconds(lambda: calls.append(None), 0.02)
    assert 0 < best < 0.02 and len(calls) > 2


def test_name_of_the_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: "
        "Fast CPU @ 3 GHz\n"
    )
    assert processor(file) == "Fast CPU @ 3 GHz"
    file.write_text("processor\t: 0\n")
    assert processor(file) == processor(tmp_path / "missing") != ""
