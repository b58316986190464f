"""In what parts the engine feeds a prompt; the estimate of memory counts on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHUNK, CUDA_CHUNK = 512, 8192  # tokens


def chunk_on(device: torch.device | str) -> int:
    """Tokens of a prompt that are fed together: more on CUDA, whose kernels want them."""
    return CUDA_CHUNK if str(device).startswith("cuda") else CHUNK
