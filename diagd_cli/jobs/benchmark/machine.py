"""What a machine can do at best: how fast it reads its memory, and how fast it multiplies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from diagd_cli.device import DTYPES, device_name
from diagd_cli.model.linear import Linear, pack
from diagd_cli.report.bench import MachineSpeed

READ = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes, far more than the last-level cache holds
# of the square matrices that reach the peak; larger ones are no faster
SIDE = {"cpu": 1024, "cuda": 8192}
SECONDS = 0.3  # for which each trial goes on


def measure_machine(device: torch.device, numbers: Mapping[str, Iterable[int]]) -> MachineSpeed:
    """Measure a device with the CPU threads that torch is set to.

    numbers: as `Loaded.numbers` names them, with the row counts to measure each at.
    """
    kinds = {name: split(name) for name in numbers}
    return MachineSpeed(
        device=str(device),
        name=processor() if device.type == "cpu" else device_name(device),
        threads=torch.get_num_threads(),
        bandwidth=bandwidth(device),
        flops={name: peak_flops(device, *kind) for name, kind in kinds.items()},
        flops_by_rows={
            name: {n: flops_at(device, *kinds[name], n) for n in sorted(set(rows))}
            for name, rows in numbers.items()
        },
    )


def split(numbers: str) -> tuple[torch.dtype, str]:
    """The dtype, and how the weights are held, that `Loaded.numbers` names."""
    dtype, _, weights = numbers.partition("+")
    return DTYPES[dtype], weights


@torch.inference_mode()
def bandwidth(device: torch.device, size: int | None = None) -> float:
    """Bytes/s read from memory, from an array of `size` bytes: the better of its sum and a
    matrix-vector product.

    float32 whatever the model's dtype is: a sum of narrower numbers can be slower than the memory.
    """
    size = size or READ[device.type]
    # written, not only allocated: pages that were never touched are all one page of zeros, which
    # stays in the cache
    values = torch.empty(size // 4, device=device).uniform_()
    matrix, vector = values.view(-1, 4096), torch.ones(4096, device=device)
    return size / min(best_seconds(values.sum), best_seconds(lambda: torch.mv(matrix, vector)))


@torch.inference_mode()
def peak_flops(
    device: torch.device, dtype: torch.dtype, weights: str = "", side: int | None = None
) -> float:
    """FLOP/s of the product of two square matrices, by weights of 8 bits where they are held so.

    On a CPU float32 may do it better than a narrower dtype that it has no hardware for; its rate
    counts then, because the product can be had at that rate.
    """
    side = side or SIDE[device.type]
    if weights:
        return flops_at(device, dtype, weights, side, side)

    def rate(kind: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        return 2 * side**3 / best_seconds(lambda: a @ b)

    kinds = {dtype, torch.float32} if device.type == "cpu" else {dtype}
    return max(rate(kind) for kind in kinds)


@torch.inference_mode()
def flops_at(
    device: torch.device, dtype: torch.dtype, weights: str, rows: int, side: int = 1024
) -> float:
    """FLOP/s of `rows` tokens through the Transformer's own `Linear`, side x side, again and
    again.
    """
    layer = Linear(side, side, bias=False, device=device, dtype=dtype).requires_grad_(False)
    if weights:
        layer.hold(weights, layer.weight)
    pack(layer)
    x = torch.randn(rows, side, device=device).to(dtype)
    return 2 * rows * side**2 / best_seconds(lambda: layer(x))


def best_seconds(work: Callable[[], Tensor], seconds: float | None = None) -> float:
    """The shortest time that `work` takes, of as many trials as fit into `seconds`; on CUDA the
    device is waited for.
    """
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=seconds or SECONDS).times)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU; its architecture where the system does not tell."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else device_name(torch.device("cpu"))
