"""Which products the CPU has, as far as oneDNN, whose they are, was not told to do without; and
whether a GPU has kernels of our own.

For each a variable of the environment (0 or 1) says so where it is set: what one kind of processor
chooses can be had, and tested, on the other.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from diagd_cli.errors import DiagdWarning, UsageError

NATIVE_BFLOAT16 = "DIAGD_NATIVE_BFLOAT16"
NATIVE_INT8 = "DIAGD_NATIVE_INT8"
OWN_KERNELS = "DIAGD_OWN_KERNELS"
AMPERE = 8, 0  # the first that multiplies bfloat16, by Triton as by PyTorch
BUILDING = f"Install gcc and Python's headers (python3-dev), or set {OWN_KERNELS}=0"
# oneDNN's names of instruction sets without products of int8, and those that lack bfloat16 besides
_WITHOUT_INT8 = frozenset({"SSE41", "AVX", "AVX2", "AVX512_CORE"})
_WITHOUT_BFLOAT16 = _WITHOUT_INT8 | {"AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI"}
# of torch.cpu; private: another torch may not have them
_BFLOAT16 = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
_INT8 = "_is_vnni_supported", "_is_amx_tile_supported"


def native_bfloat16() -> bool:
    """Whether it multiplies bfloat16, which is emulated elsewhere, and slow. Raises UsageError for
    a variable that is neither 0 nor 1.
    """
    told = _told(NATIVE_BFLOAT16)
    return _has(_BFLOAT16, _WITHOUT_BFLOAT16) if told is None else told


def native_int8() -> bool:
    """Whether it multiplies int8 faster than float32. Raises UsageError for a variable that is
    neither 0 nor 1.
    """
    told = _told(NATIVE_INT8)
    return exact_int8() if told is None else told


@cache
def exact_int8() -> bool:
    """Whether it adds products of int8 up in 32 bits: AVX2 does it in 16, which are not enough."""
    return _has(_INT8, _WITHOUT_INT8)


def _told(variable: str) -> bool | None:
    told = os.environ.get(variable, "")
    if told not in ("", "0", "1"):
        raise UsageError(f"{variable} is {told!r}", "Set it to 0 or 1, or leave it unset")
    return told == "1" if told else None


@cache
def _has(asked: tuple[str, ...], without: frozenset[str]) -> bool:
    names = (os.environ.get(f"{name}_MAX_CPU_ISA") for name in ("ONEDNN", "DNNL"))
    limit = next(filter(None, names), "")
    if limit.upper() in without:
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def own_kernels(device: torch.device) -> bool:
    """Whether kernels of our own do what needs no gradient on a device: on CUDA, by Triton, which
    comes with PyTorch there, where it can build one. torch.compile makes its own.

    Raises UsageError for a variable that is neither 0 nor 1.
    """
    wanted = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return device.type == "cuda" and wanted and _own_kernels(device)


@cache
def _own_kernels(device: torch.device) -> bool:
    told = _told(OWN_KERNELS)
    if told is not None:
        return told
    if find_spec("triton") is None or torch.version.hip:  # AMD's GPUs have never been tried
        return False
    return torch.cuda.get_device_capability(device) >= AMPERE and _builds(device)


def _builds(device: torch.device) -> bool:
    """Whether a kernel can be built and run. Triton asks for a C compiler, Python's headers, the
    driver's library and a folder to write in, and may be older than the GPU: it is tried.
    """
    from diagd_cli.model.kernels import gated  # which takes Triton

    try:
        return bool(gated(torch.ones(1, 2, device=device)).isfinite().all())
    except Exception as error:  # whatever a compiler or a driver may say
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        told = f"diagd's kernels cannot be built here ({why}), and PyTorch's are slower"
        warnings.warn(f"{told}. {BUILDING}", DiagdWarning, stacklevel=2)
        return False


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU, each of which does one thing at a time; a CPU counts as a small one, for tests."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
