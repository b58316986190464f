"""Where and in what precision to run, and what that machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import torch

from diagd_cli import processor
from diagd_cli.errors import DiagdError, UsageError, did_you_mean

CPU = torch.device("cpu")
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
    emulated, and slow. Raises UsageError as `processor.native_bfloat16`.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor.native_bfloat16()


# what --weights takes besides: for which device, and what it must have
EIGHT_BITS = {"int8": ("cpu", "VNNI or AMX instructions"), "fp8": ("cuda", "Ada or later")}
ADA = 8, 9  # compute capability of the first GPUs with products of float8


def choose_weights(name: str, device: torch.device, wished: str = "float") -> str:
    """How the Transformer's matrices are held: "" in its dtype, or "int8" or "fp8".

    name: `auto` is what the preset wishes, where the device has it; `float` is "".
    wished: by the preset.

    Raises UsageError for another name, and where the device lacks what it needs.
    """
    if name in ("auto", "float"):
        return wished if name == "auto" and _multiplies(wished, device) else ""
    if name not in EIGHT_BITS:
        known = ["auto", "float", *EIGHT_BITS]
        raise UsageError(
            f"Unknown weights {name!r}", did_you_mean(name, known, f"Use {', '.join(known)}")
        )
    if not _multiplies(name, device):
        kind, needs = EIGHT_BITS[name]
        other = next((each for each in EIGHT_BITS if _multiplies(each, device)), "float")
        where = f"a {kind.upper()} with {needs}" if kind == "cpu" else f"a GPU, {needs}"
        raise UsageError(
            f"{name} weights need {where}, and {device} is none", f"Use --weights {other}"
        )
    return name


def _multiplies(name: str, device: torch.device) -> bool:
    if name not in EIGHT_BITS or EIGHT_BITS[name][0] != device.type:
        return False
    if name == "int8":
        return processor.native_int8()
    return torch.cuda.get_device_capability(device) >= ADA


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
