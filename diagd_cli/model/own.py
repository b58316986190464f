"""Whether a GPU has kernels of our own. `DIAGD_OWN_KERNELS`, 0 or 1, says so where it is set."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import torch

from diagd_cli.errors import DiagdWarning
from diagd_cli.processor import told

OWN_KERNELS = "DIAGD_OWN_KERNELS"
AMPERE = 8, 0  # the first that multiplies bfloat16, by Triton as by PyTorch
BUILDING = f"Install gcc and Python's headers (python3-dev), or set {OWN_KERNELS}=0"


def own_kernels(device: torch.device) -> bool:
    """Whether kernels of our own do what needs no gradient on a device: on CUDA, by Triton, which
    comes with PyTorch there, where it can build one. torch.compile makes its own.

    Raises UsageError for a variable that is neither 0 nor 1.
    """
    wanted = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return device.type == "cuda" and wanted and _own_kernels(device)


@cache
def _own_kernels(device: torch.device) -> bool:
    wanted = told(OWN_KERNELS)
    if wanted is not None:
        return wanted
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
        message = f"diagd's kernels cannot be built here ({why}), and PyTorch's are slower"
        warnings.warn(f"{message}. {BUILDING}", DiagdWarning, stacklevel=2)
        return False
