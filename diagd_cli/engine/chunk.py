"""In what parts the engine feeds a prompt, and how many guesses at once; the estimate of memory
counts on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHUNK, CUDA_CHUNK = 512, 8192  # tokens
GUESSES, CUDA_GUESSES = 64, 128  # tokens: a pass of so many costs little more there than one of one


def chunk_on(device: torch.device | str) -> int:
    """Tokens of a prompt that are fed together: more on CUDA, whose kernels want them."""
    return CUDA_CHUNK if str(device).startswith("cuda") else CHUNK


def width_on(device: torch.device | str) -> int:
    """Tokens that a pass over guesses feeds, where nothing else is asked for."""
    return CUDA_GUESSES if str(device).startswith("cuda") else GUESSES
