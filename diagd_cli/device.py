"""Where and in what precision to run, and what that machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
from functools import cache
from pathlib import Path

import torch

from diagd_cli.errors import DiagdError, UsageError, did_you_mean

CPU = torch.device("cpu")
NATIVE_BFLOAT16 = "DIAGD_NATIVE_BFLOAT16"
# oneDNN's names of instruction sets that have no bfloat16 products.
_WITHOUT_BFLOAT16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a GPU by number becomes torch's current one,
    which graphs and streams belong to. On CUDA float32 is float32: convolutions in TF32 would give
    other codes than a CPU.

    Raises UsageError and DiagdError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"Unknown device {name!r}", "Use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DiagdError(
            "No CUDA device is available", "Use --device cpu, or install a CUDA build of torch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DiagdError(
            f"{name} does not exist: {torch.cuda.device_count()} CUDA device(s) found",
            "Use --device cuda",
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Unsupported device {name!r}", "Use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


# parameters: about where a model outgrows a processor's cache, and steps wait for memory
LARGE = 200_000_000


def choose_dtype(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """`auto` is bfloat16 where the hardware has it, on a CPU for a large model only; else float32,
    which is exact.
    """
    if name == "auto":
        worthwhile = device.type == "cuda" or parameters > LARGE
        return torch.bfloat16 if worthwhile and native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        known = ["auto", *DTYPES]
        raise UsageError(
            f"Unknown dtype {name!r}", did_you_mean(name, known, f"Use {', '.join(known)}")
        )
    return DTYPES[name]


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs."""
    return any(map(shutil.which, ("g++", "clang++", os.environ.get("CXX", "c++"))))


def require_compiler(what: str, way_out: str) -> None:
    """Raise DiagdError where torch.compile cannot work."""
    if not has_compiler():
        raise DiagdError(
            f"{what} needs a C++ compiler, and none is found", f"Install g++, or {way_out}"
        )


def native_bfloat16(device: torch.device = CPU) -> bool:
    """Whether the device has bfloat16 products (of GPUs those since Ampere); elsewhere they are
    emulated, and slow.

    Of a CPU the variable DIAGD_NATIVE_BFLOAT16 (0 or 1) says so where it is set: what one kind of
    processor chooses can be had, and tested, on the other. Raises UsageError for another value.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told = os.environ.get(NATIVE_BFLOAT16, "")
    if told not in ("", "0", "1"):
        raise UsageError(f"{NATIVE_BFLOAT16} is {told!r}", "Set it to 0 or 1, or leave it unset")
    return told == "1" if told else _multiplies_bfloat16()


@cache
def _multiplies_bfloat16() -> bool:
    """What the processor has, as far as oneDNN, whose products they are, was not told to do without
    it.
    """
    limit = next(
        filter(None, (os.environ.get(f"{name}_MAX_CPU_ISA") for name in ("ONEDNN", "DNNL"))), ""
    )
    if limit.upper() in _WITHOUT_BFLOAT16:
        return False
    # private: another torch may not have them
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def device_name(device: torch.device) -> str:
    """The hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak bytes so far: of this process, and of the CUDA allocator where one is in use."""
    peak = {"host": _peak_of_process()}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def _peak_of_process() -> int:
    """Peak resident bytes of this process. On Linux not getrusage's, which begins with the peak of
    whoever started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            return 1024 * int(found[1])
    except OSError:
        pass
    try:
        import resource
    # Windows, which keeps the figure itself; of other systems psutil does not tell it
    except ImportError:
        import psutil

        return psutil.Process().memory_info().peak_wset  # type: ignore[attr-defined]  # on Windows alone
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
