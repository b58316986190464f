"""Which products the CPU has, as far as oneDNN, whose they are, was not told to do without, and how
many parts a GPU has.

For each product a variable of the environment (0 or 1) says so where it is set: what one kind of
processor chooses can be had, and tested, on the other.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from diagd_cli.errors import UsageError

NATIVE_BFLOAT16 = "DIAGD_NATIVE_BFLOAT16"
NATIVE_INT8 = "DIAGD_NATIVE_INT8"
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
    wanted = told(NATIVE_BFLOAT16)
    return _has(_BFLOAT16, _WITHOUT_BFLOAT16) if wanted is None else wanted


def native_int8() -> bool:
    """Whether it multiplies int8 faster than float32. Raises UsageError for a variable that is
    neither 0 nor 1.
    """
    wanted = told(NATIVE_INT8)
    return exact_int8() if wanted is None else wanted


@cache
def exact_int8() -> bool:
    """Whether it adds products of int8 up in 32 bits: AVX2 does it in 16, which are not enough."""
    return _has(_INT8, _WITHOUT_INT8)


def told(variable: str) -> bool | None:
    """What a variable of the environment says, None where it is not set. Raises UsageError for one
    that is neither 0 nor 1.
    """
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise UsageError(f"{variable} is {value!r}", "Set it to 0 or 1, or leave it unset")
    return value == "1" if value else None


@cache
def _has(asked: tuple[str, ...], without: frozenset[str]) -> bool:
    names = (os.environ.get(f"{name}_MAX_CPU_ISA") for name in ("ONEDNN", "DNNL"))
    limit = next(filter(None, names), "")
    if limit.upper() in without:
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU, each of which does one thing at a time; a CPU counts as a small one, for tests."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
