"""How many parameters the tokenizer has, and what it works with besides; see `weights.memory` for
how that was measured.
"""

from __future__ import annotations

from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.model.count import COLOURS, linear

TOGETHER = 8  # frames that pass together


def parameters(config: VitVqConfig) -> int:
    """Parameters of the tokenizer."""
    dim, values = config.dim, COLOURS * config.patch**2
    one = config.rows * config.columns * dim + config.layers * (12 * dim**2 + 2 * dim) + 2 * dim
    both = 2 * one + linear(values, dim) + linear(dim, values)
    return (
        both
        + linear(dim, config.code_dim)
        + linear(config.code_dim, dim)
        + config.codebook * config.code_dim
    )


def work(config: VitVqConfig, frames: int, context: int, area: int, item: int) -> float:
    """Bytes besides the weights, see `families.TokenizerKind`."""
    tokens = config.rows * config.columns
    passed = TOGETHER * (2.8 * tokens * 4 * config.dim + 3.3 * COLOURS * area)
    return max(passed * item, 4 * tokens * config.codebook)
